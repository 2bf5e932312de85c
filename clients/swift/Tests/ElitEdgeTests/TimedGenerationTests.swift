import XCTest

@testable import ElitEdge

/// Runs whose steps somebody else decides.
final class TimedGenerationTests: XCTestCase {
    /// Ends before the last time, as the governor does when no further step would be in time.
    private struct ShortPace: Pace {
        var moves = [Move(to: 1, latents: 4, weakLatents: 1), Move(to: 3, latents: 2, weakLatents: 1)]
        var observed: [Double] = []

        var stepsLeft: Int { moves.count }
        mutating func next() -> Move? { moves.isEmpty ? nil : moves.removeFirst() }
        mutating func observe(elapsedMs: Double) { observed.append(elapsedMs) }
        func latents(after move: Move) -> Int? { moves.first?.latents }
    }

    func testARunThatEndsEarlyEndsOnItsPrediction() async throws {
        let model = try FakeModel()
        var pace = ShortPace()
        var run = try Run(
            model, [1], GenerationSettings(seed: 4), solver: .euler, steps: 5, guidance: Guidance(.none),
            begun: .now)
        try await run.follow(&pace, nil)
        let out = try run.finished(deadline: nil)
        XCTAssertEqual(out.latents, [4, 2])
        XCTAssertEqual(pace.observed.count, 2)

        // one step from the second one's start to 0 at once is the same picture
        var straight = ShortPace()
        straight.moves[1] = Move(to: 5, latents: 2, weakLatents: 1)
        var whole = try Run(
            model, [1], GenerationSettings(seed: 4), solver: .euler, steps: 5, guidance: Guidance(.none),
            begun: .now)
        try await whole.follow(&straight, nil)
        XCTAssertEqual(out.samples, try whole.finished(deadline: nil).samples)
    }

    func testADeadline() async throws {
        let model = try FakeModel()
        let keeper = ModelPlanner(model, runtime: "plain", precision: "fp32", version: "1")
        let begun = monotonicSeconds()
        var deadline = try DeadlineRun(
            planner: try await keeper.ready(deadlineMs: 20_000), classes: [0, 2], begun: begun, deadlineMs: 20_000)
        let steps = deadline.plan.steps
        let told = Calls()
        let out = try await generate(model, labels: [0, 2], deadline: &deadline) { progress in
            told.add("\(progress.step) of \(progress.steps)")
        }
        await keeper.learn(from: deadline)
        let report = try XCTUnwrap(out.deadline)
        XCTAssertTrue(report.kept, "\(report.elapsedMs) ms of \(report.deadlineMs)")
        XCTAssertEqual(report.plan.steps, steps)
        XCTAssertEqual(out.guidance.kind, report.plan.guidance)
        XCTAssertEqual(told.all.first, "1 of \(steps)")
        XCTAssertEqual(told.all.count, out.latents.count)
        XCTAssertEqual(out.pictures?.count, 2)
    }

    func testWhatThePlanDecidesCannotBeGivenBesideIt() async throws {
        let model = try FakeModel()
        let keeper = ModelPlanner(model, runtime: "plain", precision: "fp32", version: "1")
        let planner = try await keeper.ready(deadlineMs: 500)
        let run = try DeadlineRun(planner: planner, classes: [0], begun: monotonicSeconds(), deadlineMs: 10_000)
        let error = await refusal {
            var deadline = run
            return try await generate(
                model, labels: [0], deadline: &deadline, settings: GenerationSettings(steps: 3, solver: .heun))
        }
        XCTAssertTrue(error?.message.contains("steps and solver beside a deadline") ?? false, "\(error!)")
    }
}
