import XCTest

@testable import ElitEdge

final class MeasuringTests: XCTestCase {
    private func profile(_ model: TimedModel, seconds: Double) async throws -> Profile {
        try await Profile.measure(
            model, runtime: "fake", precision: "fp32", version: "1", openMs: 7, seconds: seconds, clock: model.now)
    }

    func testAProfileHoldsWhatPassesTook() async throws {
        let model = try TimedModel()
        let found = try await profile(model, seconds: 0.9)
        XCTAssertEqual([found.runtime, found.precision, found.version], ["fake", "fp32", "1"])
        XCTAssertEqual(found.openMs, 7)
        XCTAssertEqual(Set(found.points.map(\.latents)), Set(model.manifest.budgets))
        let batches = Set(found.points.map(\.batch))
        XCTAssert(batches.isSuperset(of: [1, 2]))
        for point in found.points {
            XCTAssertEqual(point.medianMs, model.passMs(point.latents, point.batch), accuracy: 1e-9)
            XCTAssertEqual(point.p90Ms, point.medianMs, accuracy: 1e-9)
            XCTAssertGreaterThanOrEqual(point.n, 2)
        }
        XCTAssertEqual(found.conditions.map(\.rows), [2, 64])
        for each in found.conditions { XCTAssertEqual(each.medianMs, 0.2, accuracy: 1e-9) }
        XCTAssertEqual(found.drift, 0, accuracy: 1e-9)
        XCTAssertEqual(found.wakingMs, 0, "nothing that needs pauses in less than a second")
        XCTAssertNil(found.watts)
        XCTAssertEqual(found.memory.map(\.batch), [1, batches.max()])
        XCTAssertGreaterThan(found.memory[0].peakBytes, 1_000_000)
    }

    func testAPlannerPredictsFromItWhatWasNotMeasured() async throws {
        let model = try TimedModel()
        let found = try await profile(model, seconds: 0.9)
        let planner = try Planner(manifest: model.manifest, profiles: [found])
        for latents in model.manifest.budgets {
            for batch in [1, 3, 16] {
                XCTAssertEqual(
                    planner.candidates[0].passMs(latents: latents, batch: batch), model.passMs(latents, batch),
                    accuracy: 0.15 * model.passMs(latents, batch), "\(latents) latents, \(batch) samples")
            }
        }
    }

    func testWithLittleTimeOnlyTheEndsOfTheLadderAreMeasured() async throws {
        let model = try TimedModel()
        let begun = model.clock.now
        let found = try await profile(model, seconds: 0.001)
        let ends = [model.manifest.budgets.max(), model.manifest.budgets.min()]
        XCTAssertEqual(found.points.map(\.latents), ends)
        XCTAssertEqual(Set(found.points.map(\.batch)), [1])
        XCTAssertLessThan(model.clock.now - begun, 0.1)
    }

    func testAPauseIsMeasuredWhereThereIsTime() async throws {
        let found = try await profile(TimedModel(wakingMs: 4), seconds: 1)
        XCTAssertEqual(found.wakingMs, 4, accuracy: 1e-6)
    }

    func testASpotCheckFindsAModelSlowerThanItsProfile() async throws {
        let model = try TimedModel()
        let saved = try await profile(model, seconds: 0.9)
        let flops = Dictionary(uniqueKeysWithValues: model.manifest.ladder.map { ($0.latents, $0.velocityFlops) })
        let costs = try Costs(saved, flops: flops)
        let slow = try TimedModel(slowness: 1.5)
        let ratio = try await costs.spotCheck(slow, spareMs: 1000, clock: slow.now)
        XCTAssertEqual(try XCTUnwrap(ratio), 1.5, accuracy: 0.1)
        let none = try await costs.spotCheck(slow, spareMs: 5, clock: slow.now)
        XCTAssertNil(none, "no time for it")
    }

    func testShapesByImportance() {
        let shapes = MeasuredShape.byImportance([1, 2, 4, 8, 16])
        XCTAssertEqual(shapes.prefix(4).map(\.latents), [16, 1, 16, 1])
        XCTAssertEqual(shapes.prefix(4).map(\.batch), [1, 1, 2, 2])
        XCTAssertEqual(shapes.count, Set(shapes).count)
        XCTAssertEqual(shapes.count, 2 * 5 + 2 * 3)
        XCTAssertEqual(MeasuredShape.byImportance([16]).map(\.batch), [1, 2, 4, 8])
    }

    func testStatistics() {
        XCTAssertEqual(median([3, 1, 2]), 2)
        XCTAssertEqual(median([1, 2]), 1.5)
        XCTAssertEqual(quantile([0, 1, 2, 3, 4, 5], 0.9), 4.5)
        XCTAssertEqual(deviation([1, 3]), 1)
    }
}
