/// How a rectified flow is integrated: x_t = (1 - t) · x0 + t · noise, v = noise - x0, from 1 to 0.
///
/// Source: arXiv 2401.08740 (SiT).
public enum Solver: String, Codable, CaseIterable, Sendable {
    case euler
    case heun
    /// Stochastic.
    case eulerMaruyama = "euler-maruyama"

    /// Time of the last noisy step of Euler-Maruyama; one plain step goes from there to 0.
    public static let stochasticEnd = 0.04

    /// The steps + 1 times of a run, from 1 down to 0.
    ///
    /// - Throws: `ElitEdgeError.request`: no step at all.
    public func times(steps: Int) throws -> [Double] {
        guard steps >= 1 else {
            throw ElitEdgeError.request("steps = \(steps): at least one step is needed")
        }
        guard self == .eulerMaruyama else {
            return (0...steps).map { 1 - Double($0) / Double(steps) }
        }
        guard steps > 1 else { return [1, 0] }
        let step = (Self.stochasticEnd - 1) / Double(steps - 1)
        return (0..<steps - 1).map { Double($0) * step + 1 } + [Self.stochasticEnd, 0]
    }
}

/// One step as it is asked for: where to, and at which budgets.
public struct Move: Equatable, Sendable {
    /// Index into the times: the next one, or a later one, which leaves out those between.
    public let to: Int
    public let latents: Int
    /// Budget of the weak pass, where guidance has one of its own.
    public let weakLatents: Int

    public init(to: Int, latents: Int, weakLatents: Int) {
        (self.to, self.latents, self.weakLatents) = (to, latents, weakLatents)
    }
}

/// The state after one step.
public struct Step: Sendable {
    public let move: Move
    /// Time at its end.
    public let t: Double
    /// [B, C, S, S].
    public let x: [Double]
    /// The finished sample as this step predicts it, [B, C, S, S].
    public let x0: [Double]
}

/// The guided velocity of a run.
protocol Field {
    /// The velocity at x [B, C, S, S] and the time of that index, for the step that asks.
    mutating func velocity(_ x: [Double], at index: Int, for move: Move) async throws -> [Float]
}

/// A run on its way: its state, and how a step changes it.
struct Trajectory {
    let solver: Solver
    /// From `Solver.times`.
    let grid: [Double]
    /// [B, C, S, S]; at first pure noise.
    private(set) var x: [Double]
    private var at = 0

    init(solver: Solver, grid: [Double], x: [Double]) {
        (self.solver, self.grid, self.x) = (solver, grid, x)
    }

    /// Whether the state is at the last time.
    var isFinished: Bool { at == grid.count - 1 }

    /// Takes one step.
    ///
    /// - Parameter noise: fresh normal noise for the stochastic solver, drawn from only when it is used.
    /// - Throws: `ElitEdgeError.picture`: the state is no longer finite; the message names step and budget.
    mutating func advance(
        _ move: Move, in field: inout some Field, noise: inout NoiseStream
    ) async throws -> Step {
        let last = grid.count - 1
        guard at < move.to, move.to <= last else {
            throw ElitEdgeError.request("a step to time \(move.to) of \(last), from \(at); it must lead on")
        }
        let t = grid[at]
        let dt = grid[move.to] - t
        let v = try await field.velocity(x, at: at, for: move).map(Double.init)
        let x0 = zip(x, v).map { $0 - t * $1 }
        switch solver {
        case .eulerMaruyama:
            x = zip(x, v).map { $0 + dt * Self.stochasticDrift($0, $1, t) }
            if move.to < last {
                let width = (Self.diffusion(t) * abs(dt)).squareRoot()
                x = zip(x, noise.draw(x.count / noise.pictures)).map { $0 + width * $1 }
            }
        case .heun where move.to < last:
            let ahead = zip(x, v).map { $0 + dt * $1 }
            let then = try await field.velocity(ahead, at: move.to, for: move)
            x = x.indices.map { x[$0] + dt / 2 * (v[$0] + Double(then[$0])) }
        case .euler, .heun:
            x = zip(x, v).map { $0 + dt * $1 }
        }
        guard x.allSatisfy(\.isFinite) else {
            throw ElitEdgeError.picture(
                "the sample is no longer finite after step \(move.to) of \(last) (t = \(rounded(t)), \(move.latents) "
                    + "latents a group); verify the bundle: elit-edge verify BUNDLE"
            )
        }
        at = move.to
        return Step(move: move, t: grid[at], x: x, x0: x0)
    }

    private static func diffusion(_ t: Double) -> Double { 2 * t }

    /// Drift that keeps the marginals of the flow under diffusion w(t) = 2t; linear in v, so guidance may mix before.
    private static func stochasticDrift(_ x: Double, _ v: Double, _ t: Double) -> Double {
        let score = (-(1 - t) * v - x) / t
        return v - diffusion(t) / 2 * score
    }

    private func rounded(_ t: Double) -> Double { (t * 1000).rounded() / 1000 }
}
