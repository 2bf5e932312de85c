import XCTest

@testable import ElitEdge

/// What refusals say, and what is refused before anything is planned.
final class RefusalTests: XCTestCase {
    private func planner(_ profiles: String...) throws -> Planner {
        let setup = GoldenParts.Setup(
            table: "sample", profiles: profiles, ladder: "every", slowdown: 1, departures: [:])
        return try GoldenParts.read().planner(setup)
    }

    private func refusal(_ planner: Planner, _ wish: Wish) -> PlanError? {
        do {
            XCTFail("planned: \(try planner.plan(wish))")
        } catch {
            return error as? PlanError
        }
        return nil
    }

    func testTheFigureInARefusedDeadlineIsEnough() throws {
        let planner = try planner("phone")
        let error = try XCTUnwrap(refusal(planner, Wish(batch: 1, classes: 2, deadlineMs: 2)))
        let needed = try XCTUnwrap(error.message.split(separator: " ").compactMap { Double($0) }.dropFirst().first)
        XCTAssert(error.message.hasPrefix("no plan keeps 2 ms here; the fastest needs "), error.message)
        let plan = try planner.plan(Wish(batch: 1, classes: 2, deadlineMs: needed))
        XCTAssertEqual(plan.steps, error.nearest?.steps)
        XCTAssertEqual(plan.guidance, error.nearest?.guidance)
        XCTAssertThrowsError(try planner.plan(Wish(batch: 1, classes: 2, deadlineMs: needed - 1)))
        XCTAssertEqual(error.localizedDescription, error.message)
    }

    func testTheFigureInARefusedEnergyIsEnough() throws {
        let planner = try planner("board")
        let error = try XCTUnwrap(refusal(planner, Wish(batch: 1, classes: 2, joules: 0.001)))
        XCTAssert(error.message.hasPrefix("no plan takes at most 0.001 J; the nearest needs "), error.message)
        let needed = try XCTUnwrap(error.message.split(separator: " ").compactMap { Double($0) }.last { $0 < 1 })
        XCTAssertNoThrow(try planner.plan(Wish(batch: 1, classes: 2, joules: needed)))
    }

    func testTheMemoryThatTheNearestNeedsIsNamed() throws {
        let error = refusal(try planner("board", "small"), Wish(batch: 1, classes: 2, memoryBytes: 1_000_000))
        XCTAssertEqual(error?.nearest?.runtime, "small")
        XCTAssert(error?.message.contains("within 1 MB for 1 pictures at once; the nearest needs 120 MB") ?? false)
    }

    func testBoundsThatNothingCanBeHeldAgainst() throws {
        let planner = try planner("phone")
        let energy = refusal(planner, Wish(batch: 1, classes: 2, joules: 5))
        XCTAssert(energy?.message.contains("power sensor") ?? false)
        let memory = refusal(planner, Wish(batch: 1, classes: 2, memoryBytes: 1 << 40))
        XCTAssert(memory?.message.contains("measured memory") ?? false)
        XCTAssertNil(energy?.nearest ?? memory?.nearest)
    }

    func testBoundsThatAreNone() throws {
        let planner = try planner("board")
        XCTAssert(refusal(planner, Wish(batch: 1, classes: 2))?.message.contains("needs a bound") ?? false)
        for bound in [0, -5, .nan, -.infinity] as [Double] {
            for wish in [
                Wish(batch: 1, classes: 2, deadlineMs: bound), Wish(batch: 1, classes: 2, joules: bound),
            ] {
                XCTAssert(refusal(planner, wish)?.message.contains("number above 0") ?? false, "\(wish)")
            }
        }
        XCTAssertThrowsError(try planner.plan(Wish(batch: 0, classes: 1, deadlineMs: 100)))
    }

    func testGuidanceThatTheTableDoesNotHoldIsRefusedWithThoseItDoes() throws {
        let error = refusal(try planner("phone"), Wish(batch: 1, classes: 2, deadlineMs: 100, guidance: .cfg))
        XCTAssert(error?.message.contains("guidance cfg is not in") ?? false)
        XCTAssert(error?.message.contains("which has: ccfg, none;") ?? false, error?.message ?? "")
    }

    func testNothingToPlanWithIsRefused() throws {
        let parts = try GoldenParts.read()
        let table = try XCTUnwrap(parts.tables["sample"])
        let phone = try XCTUnwrap(parts.profiles["phone"])
        let flops = try XCTUnwrap(parts.ladders["every"])
        XCTAssertThrowsError(try Planner(candidates: [], loss: Loss(table), flops: flops))
        XCTAssertThrowsError(try Costs(phone, flops: [3: 100]))
        let alone = try Costs(phone, flops: flops)
        XCTAssertThrowsError(try Planner(candidates: [alone], loss: Loss(table), flops: [99: 100]))
    }

    func testADamagedTableIsRefused() throws {
        let table = try XCTUnwrap(GoldenParts.read().tables["sample"])
        func with(cells: [QualityTable.Cell], bands: [QualityTable.Band]) -> QualityTable {
            QualityTable(
                reference: table.reference, solver: .euler, scale: 1, pictures: 1, seed: 0, featuresSha256: nil,
                origin: .measured, cells: cells, bands: bands)
        }
        XCTAssertNoThrow(try Loss(with(cells: table.cells, bands: table.bands)))
        XCTAssertThrowsError(try Loss(with(cells: [], bands: [])))
        let backwards = QualityTable.Band(steps: 4, latents: 1, start: 0.2, end: 0.6, distance: 0.1)
        XCTAssertThrowsError(try Loss(with(cells: table.cells, bands: [backwards])))
        let unguided = table.cells.filter { $0.guidance == .none }
        XCTAssertThrowsError(try Loss(with(cells: unguided, bands: table.bands)), "the reference is guided")
    }

    func testAPlanSaysItselfInOneLine() throws {
        let plan = Plan(
            runtime: "coreml", precision: "int8", solver: .euler, guidance: .ccfg, weakLatents: 1, latents: [16, 8],
            distance: 0.0896, expectedMs: 236.6, margin: 0.05, memoryBytes: nil, joules: nil, boundMs: nil)
        XCTAssertEqual(
            "\(plan)", "coreml int8, 2 steps at 8 to 16 latents, ccfg weak 1: 237 ms expected, distance 0.090")
        XCTAssertEqual(plan.neededMs, 248.43, accuracy: 1e-9)
    }
}
