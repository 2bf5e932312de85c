import XCTest

@testable import ElitEdge

final class SamplingTests: XCTestCase {
    private struct File: Decodable {
        struct Grid: Decodable {
            let solver: Solver
            let steps: Int
            let times: [Double]
        }
        struct Run: Decodable {
            struct State: Decodable {
                let t: Double
                let x: [Double]
                let x0: [Double]
            }
            let solver: Solver
            let start: [Double]
            let moves: [[Int]]
            let steps: [State]
        }
        let grids: [Grid]
        let runs: [Run]
    }

    /// v = x / 2 + t · latents / 8 in float32, as tools/golden_numbers.py has it.
    private struct PlainField: Field {
        let grid: [Double]

        func velocity(_ x: [Double], at index: Int, for move: Move) async throws -> [Float] {
            x.map { Float($0) * 0.5 + Float(grid[index]) * Float(Double(move.latents) / 8) }
        }
    }

    func testTimes() throws {
        for grid in try Golden.read("sampling.json", as: File.self).grids {
            XCTAssertEqual(try grid.solver.times(steps: grid.steps), grid.times, "\(grid.solver) \(grid.steps)")
        }
        assertRefused("steps = 0") { try Solver.heun.times(steps: 0) }
    }

    func testEverySolverOverEveryPath() async throws {
        for run in try Golden.read("sampling.json", as: File.self).runs {
            let grid = try run.solver.times(steps: 5)
            var field = PlainField(grid: grid)
            var noise = NoiseStream(seed: 7, pictures: 2)
            var trajectory = Trajectory(solver: run.solver, grid: grid, x: run.start)
            // drawn noise agrees with numpy's to the last bits, which float32 may round apart
            let tolerance = run.solver == .eulerMaruyama ? 1e-6 : 0
            for (move, state) in zip(run.moves, run.steps) {
                let step = try await trajectory.advance(
                    Move(to: move[0], latents: move[1], weakLatents: 1), in: &field, noise: &noise)
                XCTAssertEqual(step.t, state.t)
                assertClose(step.x, state.x, within: tolerance, "\(run.solver) x at \(step.t)")
                assertClose(step.x0, state.x0, within: tolerance, "\(run.solver) x0 at \(step.t)")
            }
            XCTAssertEqual(trajectory.isFinished, run.moves.last?[0] == 5)
        }
    }

    func testAStepLeadsOn() async throws {
        let grid = try Solver.euler.times(steps: 3)
        for target in [0, 4] {
            var field = PlainField(grid: grid)
            var noise = NoiseStream(seed: 0, pictures: 1)
            var trajectory = Trajectory(solver: .euler, grid: grid, x: [1, 2])
            do {
                _ = try await trajectory.advance(
                    Move(to: target, latents: 1, weakLatents: 1), in: &field, noise: &noise)
                XCTFail("a step to \(target) was taken")
            } catch let error as ElitEdgeError {
                XCTAssertTrue(error.message.contains("a step to time \(target) of 3, from 0"), error.message)
            }
        }
    }
}
