import XCTest

@testable import ElitEdge

/// A run whose steps take the time that they took in Python takes the same steps, for the same reasons.
final class GoldenRunTests: XCTestCase {
    private struct Runs: Decodable {
        let runs: [GoldenRun]
    }

    private struct GoldenRun: Decodable {
        struct Pressed: Decodable {
            let fromS: Double
            let share: Double
            let why: String
        }

        struct Change: Decodable {
            let step: Int
            let atMs: Double
            let why: String
            let stepsLeft: Int
            let latents: [Int]
            let weakLatents: Int
        }

        let name: String
        let setup: GoldenParts.Setup
        let labels: [Int]
        let deadlineMs: Double
        let guidance: GuidanceKind?
        let begunMs: Double
        let pressure: [Pressed]
        let elapsedMs: [Double]
        let plan: GoldenPlan
        let moves: [[Int]]
        let changes: [Change]
        let landed: Bool
        let slowdown: Double
        let plannerDeviation: Double
        let distance: Double
    }

    func testMovesChangesAndReports() throws {
        let parts = try GoldenParts.read()
        let runs: Runs = try Golden.read("planning-runs.json")
        for golden in runs.runs { try replay(golden, parts.planner(golden.setup)) }
        XCTAssertGreaterThan(runs.runs.count { $0.landed }, 3)
        XCTAssertGreaterThan(runs.runs.count { !$0.landed }, 15)
    }

    private func replay(_ golden: GoldenRun, _ planner: Planner) throws {
        let clock = HandClock()
        clock.advance(ms: golden.begunMs)
        let scripted: SustainableShare = {
            let now = golden.pressure.last { $0.fromS <= clock.now }
            return (now?.share ?? 1, now?.why ?? "")
        }
        var run = try DeadlineRun(
            planner: planner, classes: golden.labels, begun: 0, deadlineMs: golden.deadlineMs,
            guidance: golden.guidance, pressure: golden.pressure.isEmpty ? nil : scripted, clock: { clock.now })
        golden.plan.assertIs(run.plan, golden.name)
        try run.begin(times: run.plan.solver.times(steps: run.plan.steps))
        var taken: [Move] = []
        for elapsedMs in golden.elapsedMs {
            guard let move = run.next() else { break }
            taken.append(move)
            clock.advance(ms: elapsedMs)
            run.observe(elapsedMs: elapsedMs)
        }
        XCTAssertNil(run.next(), golden.name)
        XCTAssertEqual(taken.map { [$0.to, $0.latents, $0.weakLatents] }, golden.moves, golden.name)
        let report = try XCTUnwrap(run.report(taken: taken))
        XCTAssertEqual(report.landed, golden.landed, golden.name)
        XCTAssertEqual(report.changes.map(\.step), golden.changes.map(\.step), golden.name)
        XCTAssertEqual(report.changes.map(\.why), golden.changes.map(\.why), golden.name)
        XCTAssertEqual(report.changes.map(\.stepsLeft), golden.changes.map(\.stepsLeft), golden.name)
        XCTAssertEqual(report.changes.map(\.latents), golden.changes.map(\.latents), golden.name)
        XCTAssertEqual(report.changes.map(\.weakLatents), golden.changes.map(\.weakLatents), golden.name)
        for (found, wanted) in zip(report.changes, golden.changes) { assertNear(found.atMs, wanted.atMs, golden.name) }
        assertNear(report.distance, golden.distance, golden.name)
        assertNear(run.planner.slowdown, golden.slowdown, golden.name)
        assertNear(run.planner.deviation, golden.plannerDeviation, golden.name)
    }
}

/// A clock that only its owner moves.
final class HandClock: @unchecked Sendable {
    private(set) var now = 0.0

    func advance(ms: Double) { now += ms / 1e3 }
}
