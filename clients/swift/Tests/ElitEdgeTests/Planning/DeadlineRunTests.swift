import XCTest

@testable import ElitEdge

final class DeadlineRunTests: XCTestCase {
    private func planner(_ profiles: [String] = ["board"]) throws -> Planner {
        let setup = GoldenParts.Setup(
            table: "sample", profiles: profiles, ladder: "every", slowdown: 1, departures: [:])
        return try GoldenParts.read().planner(setup)
    }

    private func run(
        _ planner: Planner, classes: [Int] = [3], begun: Double = 0, deadlineMs: Double?, plan: Plan? = nil
    ) throws -> DeadlineRun {
        try DeadlineRun(
            planner: planner, classes: classes, begun: begun, deadlineMs: deadlineMs, plan: plan, clock: { 0 })
    }

    func testADeadlineThatIsNoTimeIsRefused() throws {
        let planner = try planner()
        for deadline in [0, -1, .nan, .infinity, -.infinity] as [Double] {
            XCTAssertThrowsError(try run(planner, deadlineMs: deadline)) { error in
                guard case ElitEdgeError.request(let text) = error else { return XCTFail("\(error)") }
                XCTAssert(text.contains("must be a number above 0"), text)
            }
        }
        XCTAssertThrowsError(try run(planner, deadlineMs: nil))
        XCTAssertThrowsError(try run(planner, classes: [], deadlineMs: 100))
    }

    func testTimeThatIsGoneIsRefusedAsADeadline() throws {
        XCTAssertThrowsError(try run(planner(), begun: -0.2, deadlineMs: 150)) { error in
            guard case PlanError.deadline(let text, nearest: nil) = error else { return XCTFail("\(error)") }
            XCTAssert(text.hasPrefix("of 150 ms nothing was left"), text)
        }
    }

    func testAPlanWithoutABoundIsFollowedWithoutAClock() throws {
        let planner = try planner()
        let plan = try planner.plan(Wish(batch: 1, classes: 2, memoryBytes: 999_000_000))
        XCTAssertNil(plan.boundMs)
        var run = try run(planner, deadlineMs: nil, plan: plan)
        try run.begin(times: plan.solver.times(steps: plan.steps))
        var taken: [Move] = []
        while let move = run.next() {
            XCTAssertEqual(run.stepsLeft, plan.steps - taken.count - 1)
            taken.append(move)
            XCTAssertEqual(run.nextLatents, taken.count < plan.steps ? plan.latents[taken.count] : nil)
            run.observe(elapsedMs: 1e6)
        }
        XCTAssertEqual(taken.map(\.latents), plan.latents)
        XCTAssertEqual(taken.map(\.to), Array(1...plan.steps))
        XCTAssertNil(run.report(taken: taken))
        XCTAssertEqual(run.planner.slowdown, 1)
    }

    func testThePlansOwnBoundIsTheDeadlineUnlessThereIsAnother() throws {
        let planner = try planner()
        let plan = try planner.plan(Wish(batch: 1, classes: 2, deadlineMs: 300))
        XCTAssertEqual(try run(planner, deadlineMs: nil, plan: plan).deadlineMs, 300)
        XCTAssertEqual(try run(planner, deadlineMs: 900, plan: plan).deadlineMs, 900)
    }

    func testAPlanOfAnotherModelIsRefusedWithTheOnesThereAre() throws {
        let plan = try planner(["phone"]).plan(Wish(batch: 1, classes: 2, deadlineMs: 300))
        XCTAssertThrowsError(try run(planner(["board"]), deadlineMs: nil, plan: plan)) { error in
            guard case ElitEdgeError.request(let text) = error else { return XCTFail("\(error)") }
            XCTAssert(text.contains("no costs of phone fp16"), text)
            XCTAssert(text.contains("board fp16"), text)
        }
    }

    func testTimesThatAreNotThePlansAreRefused() throws {
        var run = try run(planner(), deadlineMs: 300)
        XCTAssertThrowsError(try run.begin(times: [1, 0.5, 0]))
    }

    func testTheNextBudgetIsKnownAheadOfItsStep() throws {
        var run = try run(planner(), deadlineMs: 60_000)
        try run.begin(times: run.plan.solver.times(steps: run.plan.steps))
        XCTAssertEqual(run.nextLatents, run.plan.latents[0])
        XCTAssertEqual(run.next()?.latents, run.plan.latents[0])
        XCTAssertEqual(run.nextLatents, run.plan.latents[1])
    }
}
