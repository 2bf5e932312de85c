import XCTest

@testable import ElitEdge

/// The planner chooses what the Python package chooses: plans, refusals and the order of all that was compared.
final class GoldenPlanTests: XCTestCase {
    private struct Plans: Decodable {
        let groups: [Group]
    }

    private struct Group: Decodable {
        let setup: GoldenParts.Setup
        let cases: [Case]
        let tableDeadlineMs: Double
        let rows: [String]
    }

    private struct Case: Decodable {
        let wish: GoldenWish
        let plan: GoldenPlan?
        let refused: String?
        let nearest: GoldenPlan?
    }

    private struct GoldenWish: Decodable {
        let batch: Int
        let classes: Int
        let deadlineMs: Double?
        let memoryBytes: Int?
        let joules: Double?
        let guidance: GuidanceKind?
        let cap: Double

        var wish: Wish {
            Wish(
                batch: batch, classes: classes, deadlineMs: deadlineMs, memoryBytes: memoryBytes, joules: joules,
                guidance: guidance, cap: cap)
        }
    }

    private func groups() throws -> [(Planner, Group)] {
        let parts = try GoldenParts.read()
        let plans: Plans = try Golden.read("planning-plans.json")
        return try plans.groups.map { (try parts.planner($0.setup), $0) }
    }

    func testPlansAndRefusals() throws {
        var kinds: [String: Int] = [:]
        for (planner, group) in try groups() {
            for each in group.cases {
                let what = "\(group.setup.table) \(group.setup.profiles) \(each.wish)"
                do {
                    let found = try planner.plan(each.wish.wish)
                    try XCTUnwrap(each.plan, "planned: \(what)").assertIs(found, what)
                    kinds["plan", default: 0] += 1
                } catch let error as PlanError {
                    let kind = if case .deadline = error { "deadline" } else { "plan" }
                    XCTAssertEqual(kind, each.refused, what)
                    XCTAssertEqual(error.nearest == nil, each.nearest == nil, what)
                    if let nearest = error.nearest { each.nearest?.assertIs(nearest, what) }
                    kinds["refused by \(kind)", default: 0] += 1
                }
            }
        }
        print("golden plans:", kinds)
        XCTAssertGreaterThan(kinds["plan", default: 0], 150)
        XCTAssertGreaterThan(kinds["refused by deadline", default: 0], 10)
        XCTAssertGreaterThan(kinds["refused by plan", default: 0], 10)
    }

    func testTheOrderOfAllThatWasCompared() throws {
        for (planner, group) in try groups() {
            let found = try planner.table(Wish(batch: 1, classes: 2, deadlineMs: group.tableDeadlineMs)).map {
                "\($0.plan.runtime) \($0.plan.precision), \($0.plan.steps) steps, "
                    + "\($0.plan.guidance.rawValue) \($0.plan.weakLatents): \($0.verdict)"
            }
            XCTAssertEqual(found, group.rows, group.setup.table)
        }
    }

    func testThePublishedTable() throws {
        let wanted = try XCTUnwrap(GoldenParts.read().tables["published"])
        let found = QualityTable.published(latentsPerGroup: 16, guidance: .ccfg, weakLatents: 1, scale: 2.5)
        XCTAssertEqual(found, wanted)
    }
}
