import ElitEdge
import Foundation
import XCTest

/// The numbers that `tools/golden_vectors.py` wrote with the Python package.
enum Golden {
    /// A file of Golden/, decoded; names in the JSON are snake_case.
    static func read<T: Decodable>(_ name: String, as type: T.Type = T.self) throws -> T {
        let decoder = JSONDecoder()
        decoder.keyDecodingStrategy = .convertFromSnakeCase
        return try decoder.decode(type, from: Data(contentsOf: url(name)))
    }

    /// Where a file of Golden/ stands.
    static func url(_ name: String) -> URL {
        Bundle.module.resourceURL!.appendingPathComponent("Golden").appendingPathComponent(name)
    }

    static func tinyManifest() throws -> Manifest {
        try Manifest.decode(Data(contentsOf: url("tiny.elit/manifest.json")), source: "tiny.elit")
    }
}

/// Each number of two lists is equal within a relative and absolute tolerance.
func assertClose(
    _ found: [Double], _ wanted: [Double], within tolerance: Double = 1e-12, _ what: String = "",
    file: StaticString = #filePath, line: UInt = #line
) {
    XCTAssertEqual(found.count, wanted.count, "\(what): count", file: file, line: line)
    for (index, (a, b)) in zip(found, wanted).enumerated()
    where !(abs(a - b) <= tolerance * Swift.max(1, abs(b))) {
        XCTFail("\(what)[\(index)]: \(a), wanted \(b)", file: file, line: line)
        return
    }
}

/// An error of this package, whose message holds each of the parts.
func assertRefused<T>(
    _ parts: String..., by body: () throws -> T, file: StaticString = #filePath, line: UInt = #line
) {
    XCTAssertThrowsError(try body(), file: file, line: line) { error in
        let message = (error as? ElitEdgeError)?.message ?? "not of this package: \(error)"
        for part in parts where !message.contains(part) {
            XCTFail("\(message): says nothing of \(part)", file: file, line: line)
        }
    }
}

/// The error that a body throws, where XCTest has no asynchronous form.
func refusal<T>(of body: () async throws -> T, file: StaticString = #filePath, line: UInt = #line) async
    -> ElitEdgeError?
{
    do {
        _ = try await body()
        XCTFail("nothing was refused", file: file, line: line)
    } catch let error as ElitEdgeError {
        return error
    } catch {
        XCTFail("not of this package: \(error)", file: file, line: line)
    }
    return nil
}
