import Foundation
import XCTest

@testable import ElitEdge

/// The levels; where they come from can be asked on Apple's devices alone.
final class PressureTests: XCTestCase {
    func testTheWorstLevelCountsAndAllReasonsAreSaid() {
        let calm = Pressure.share(of: [(.none, ""), (.none, "low-power mode")])
        XCTAssertEqual(calm.share, 1)
        XCTAssertEqual(calm.why, "")
        let warm = Pressure.share(of: [(.none, ""), (.warm, "low-power mode")])
        XCTAssertEqual(warm.share, 0.7)
        XCTAssertEqual(warm.why, "low-power mode")
        let hot = Pressure.share(of: [(.hot, "thermal state serious"), (.warm, "low-power mode")])
        XCTAssertEqual(hot.share, 0.4)
        XCTAssertEqual(hot.why, "thermal state serious; low-power mode")
    }
}

final class ProfileTests: XCTestCase {
    func testAProfileIsKeptAsTheJSONOfThePythonPackage() throws {
        let profile = try XCTUnwrap(GoldenParts.read().profiles["board"])
        let encoder = JSONEncoder()
        encoder.keyEncodingStrategy = .convertToSnakeCase
        let data = try encoder.encode(profile)
        let names = try XCTUnwrap(JSONSerialization.jsonObject(with: data) as? [String: Any])
        XCTAssertNotNil(names["solver_ms"])
        XCTAssertNotNil((names["points"] as? [[String: Any]])?.first?["p90_ms"])
        let decoder = JSONDecoder()
        decoder.keyDecodingStrategy = .convertFromSnakeCase
        XCTAssertEqual(try decoder.decode(Profile.self, from: data), profile)
    }
}
