import XCTest

@testable import ElitEdge

final class ModelPlannerTests: XCTestCase {
    private func keeper(_ model: TimedModel, _ profile: Profile? = nil) -> ModelPlanner {
        ModelPlanner(model, runtime: "fake", precision: "fp32", version: "1", profile: profile, clock: model.now)
    }

    func testAModelWithoutAProfileIsMeasuredOnceInATenthOfTheDeadline() async throws {
        let model = try TimedModel()
        let kept = keeper(model)
        let planner = try await kept.ready(deadlineMs: 5000)
        XCTAssertEqual(planner.slowdown, 1)
        let saved = await kept.profile
        XCTAssertEqual(saved, planner.candidates[0].profile)
        let measured = model.clock.now
        _ = try await kept.ready(deadlineMs: 5000)
        XCTAssertEqual(model.clock.now, measured)
    }

    func testAProfileIsCheckedAgainstTheDeviceOfToday() async throws {
        let first = keeper(try TimedModel())
        _ = try await first.ready(deadlineMs: 5000)
        let saved = await first.profile
        let today = try TimedModel(slowness: 2)
        let planner = try await keeper(today, saved).ready(deadlineMs: 5000)
        XCTAssertEqual(planner.slowdown, 2, accuracy: 0.1)
        let hurried = try TimedModel(slowness: 2)
        let trusting = try await keeper(hurried, saved).ready(deadlineMs: 50)
        XCTAssertEqual(trusting.slowdown, 1)
        XCTAssertEqual(hurried.clock.now, 0, "nothing was computed")
    }

    func testARunTeachesTheNext() async throws {
        let model = try TimedModel()
        let kept = keeper(model)
        var run = try DeadlineRun(
            planner: try await kept.ready(deadlineMs: nil), classes: [0], begun: model.clock.now, deadlineMs: 400,
            clock: model.now)
        try run.begin(times: run.plan.solver.times(steps: run.plan.steps))
        var taken: [Move] = []
        while let move = run.next() {
            let planned = run.plan.expectedMs / Double(run.plan.steps)
            model.clock.advance(ms: 2 * planned)
            run.observe(elapsedMs: 2 * planned)
            taken.append(move)
        }
        XCTAssertEqual(try XCTUnwrap(run.report(taken: taken)).deadlineMs, 400)
        await kept.learn(from: run)
        let taught = try await kept.ready(deadlineMs: nil)
        XCTAssertGreaterThan(taught.slowdown, 1.3)
    }
}
