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
