import XCTest

@testable import ElitEdge

final class GuidanceTests: XCTestCase {
    private struct File: Decodable {
        struct Case: Decodable {
            let kind: GuidanceKind
            let scale: Double
            let low: Double
            let high: Double
            let active: [Bool]
        }
        let times: [Double]
        let cases: [Case]
    }

    func testWhereItActs() throws {
        let file: File = try Golden.read("guidance.json")
        for each in file.cases {
            let guidance = try Guidance(each.kind, scale: each.scale, interval: each.low...each.high)
            XCTAssertEqual(file.times.map(guidance.isActive(at:)), each.active, "\(guidance)")
        }
    }

    func testAScaleOfTwoGoesOnceBeyondTheStrongPass() throws {
        XCTAssertEqual(try Guidance(.cfg, scale: 2).mix(strong: [1, -1], weak: [0, 1]), [2, -3])
    }

    func testImpossibleValues() {
        assertRefused("guidance scale -1.0") { try Guidance(.cfg, scale: -1) }
        assertRefused("guidance scale nan") { try Guidance(.cfg, scale: .nan) }
        assertRefused("0...1.5", "must lie in 0..1") { try Guidance(.cfg, interval: 0...1.5) }
    }
}
