import XCTest

@testable import ElitEdge

/// Tables, profiles and ladders that golden plans and runs name. Profiles are synthetic: no device was measured.
struct GoldenParts: Decodable {
    let tables: [String: QualityTable]
    let profiles: [String: Profile]
    let ladders: [String: [Int: Int]]

    /// A planner, by the names of its parts.
    struct Setup: Decodable {
        let table: String
        let profiles: [String]
        let ladder: String
        let slowdown: Double
        let departures: [String: Double]
    }

    static func read() throws -> GoldenParts { try Golden.read("planning-parts.json") }

    func planner(_ setup: Setup) throws -> Planner {
        let flops = try XCTUnwrap(ladders[setup.ladder])
        let costs = try setup.profiles.map { try Costs(XCTUnwrap(profiles[$0]), flops: flops) }
        return try Planner(
            candidates: costs, loss: Loss(XCTUnwrap(tables[setup.table])), flops: flops, departures: setup.departures,
            slowdown: setup.slowdown)
    }
}

/// A plan as Python has chosen it.
struct GoldenPlan: Decodable {
    let runtime: String
    let precision: String
    let solver: Solver
    let guidance: GuidanceKind
    let weakLatents: Int
    let latents: [Int]
    let distance: Double
    let expectedMs: Double
    let margin: Double
    let memoryBytes: Int?
    let joules: Double?
    let boundMs: Double?

    /// Choices are the same, and numbers to nine digits.
    func assertIs(_ found: Plan, _ what: String, line: UInt = #line) {
        XCTAssertEqual(found.runtime, runtime, what, line: line)
        XCTAssertEqual(found.precision, precision, what, line: line)
        XCTAssertEqual(found.solver, solver, what, line: line)
        XCTAssertEqual(found.guidance, guidance, what, line: line)
        XCTAssertEqual(found.weakLatents, weakLatents, what, line: line)
        XCTAssertEqual(found.latents, latents, what, line: line)
        XCTAssertEqual(found.memoryBytes, memoryBytes, what, line: line)
        assertNear(found.distance, distance, what, line: line)
        assertNear(found.expectedMs, expectedMs, what, line: line)
        assertNear(found.margin, margin, what, line: line)
        assertNear(found.joules, joules, what, line: line)
        assertNear(found.boundMs, boundMs, what, line: line)
    }
}

/// Equal to nine digits, or both absent.
func assertNear(_ found: Double?, _ wanted: Double?, _ what: String = "", line: UInt = #line) {
    guard let found, let wanted else {
        XCTAssertEqual(found, wanted, what, line: line)
        return
    }
    XCTAssertEqual(found, wanted, accuracy: 1e-9 * abs(wanted), what, line: line)
}
