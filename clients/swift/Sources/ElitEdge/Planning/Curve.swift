/// All plans of one runtime, guidance and grid of times, from the cheapest to the best.
///
/// A plan starts with the cheapest budget everywhere and is improved where a millisecond buys most, one step and one
/// rung at a time. On the lower convex hull of (cost, loss) that greedy order is optimal at every bound it stops at,
/// and budgets that are slower and worse than others are not on the hull at all.
struct Curve: Sendable {
    /// A plan that takes the bound to the last bit fits it.
    static let rounding = 1e-9
    /// Steps whose worth differs in the last bits alone are improved in their order.
    private static let worthUnit = 1e9

    /// One step lifted by one rung.
    private struct Improvement {
        var step: Int
        let rung: Int
        let price: Double
        let gain: Double
    }

    let variant: Variant
    /// By budget whose loss is known.
    private let stepMs: [Int: Double]
    /// The budgets worth having, cheapest first.
    let budgets: [Int]
    /// The cheapest step.
    let leastMs: Double
    /// How often each step evaluates the model.
    let evaluations: [Double]
    /// Time and loss at the cheapest budget everywhere.
    let baseMs: Double
    let baseLoss: Double

    private let losses: [Double]
    /// The one worth most first.
    private let improvements: [Improvement]
    private let spent: [Double]
    private let won: [Double]

    var steps: Int { evaluations.count }

    /// A step of one evaluation at a budget whose loss is known.
    func cost(_ budget: Int) -> Double {
        guard let ms = stepMs[budget] else { preconditionFailure("the loss of \(budget) latents is not known") }
        return ms
    }

    /// - Parameters:
    ///   - budgets: whose loss is known, ascending, at least one.
    ///   - stepMs: a step of one evaluation at each of `budgets`.
    ///   - grid: times, [steps + 1], falling.
    init(loss: Loss, variant: Variant, budgets: [Int], stepMs: [Double], grid: [Double]) {
        let lengths = zip(grid, grid.dropFirst()).map { $0 - $1 }
        let weights = loss.weights(grid)
        let evaluations = Self.evaluations(loss.table.solver, lengths.count)
        let density = 1 / (pairwiseSum(lengths) / Double(lengths.count))
        let squared = loss.squared(variant, density: density, latents: budgets)
        let rungs = lowerHull(costs: stepMs, losses: squared)
        let values = rungs.map { squared[$0] }
        let best = values[values.count - 1]
        let rises = differences(rungs.map { stepMs[$0] })
        let falls = differences(values).map { -$0 }
        let improvements = lengths.indices.flatMap { step in
            rises.indices.map { rung in
                Improvement(
                    step: step, rung: rung, price: evaluations[step] * rises[rung],
                    gain: lengths[step] * weights[step] * falls[rung])
            }
        }
        self.init(
            variant: variant,
            stepMs: Dictionary(uniqueKeysWithValues: zip(budgets, stepMs)),
            budgets: rungs.map { budgets[$0] },
            leastMs: stepMs[rungs[0]],
            evaluations: evaluations,
            losses: lengths.indices.map { lengths[$0] * (best + weights[$0] * (values[0] - best)) },
            improvements: Self.mostWorthFirst(improvements))
    }

    private init(
        variant: Variant, stepMs: [Int: Double], budgets: [Int], leastMs: Double, evaluations: [Double],
        losses: [Double], improvements: [Improvement]
    ) {
        self.variant = variant
        self.stepMs = stepMs
        self.budgets = budgets
        self.leastMs = leastMs
        self.evaluations = evaluations
        self.losses = losses
        self.improvements = improvements
        baseMs = pairwiseSum(evaluations) * leastMs
        baseLoss = pairwiseSum(losses)
        spent = runningSums(improvements.map(\.price))
        won = runningSums(improvements.map(\.gain))
    }

    /// The same for the steps from `first` on alone.
    func tail(_ first: Int) -> Curve {
        let left = improvements.filter { $0.step >= first }.map { improvement in
            var moved = improvement
            moved.step -= first
            return moved
        }
        return Curve(
            variant: variant, stepMs: stepMs, budgets: budgets, leastMs: leastMs,
            evaluations: Array(evaluations.dropFirst(first)), losses: Array(losses.dropFirst(first)),
            improvements: left)
    }

    /// Time and loss of the best plan within `boundMs` that uses no rung above `top`; nil where there is none.
    func fit(_ boundMs: Double, top: Int?) -> (ms: Double, loss: Double)? {
        if baseMs > boundMs * (1 + Self.rounding) { return nil }
        if let top, top < budgets.count - 1 {
            let found = within(boundMs - baseMs, top)
            return (baseMs + found.ms, baseLoss - found.gain)
        }
        let count = upperBound(spent, boundMs - baseMs)
        return count == 0 ? (baseMs, baseLoss) : (baseMs + spent[count - 1], baseLoss - won[count - 1])
    }

    /// The budgets of the steps within `boundMs` for all of them; the cheapest where it is short.
    func latents(_ boundMs: Double, top: Int?) -> [Int] {
        within(boundMs - baseMs, top ?? budgets.count - 1).rungs.map { budgets[$0] }
    }

    /// The highest rung whose pass takes at most that share of the dearest budget's FLOPs.
    func top(cap: Double, flops: [Int: Int]) -> Int {
        let full = Double(flops.values.max() ?? 0)
        return budgets.lastIndex { Double(flops[$0] ?? 0) <= cap * full } ?? 0
    }

    /// The rung of each step, what they cost beyond the cheapest, and what they gain.
    private func within(_ spareMs: Double, _ top: Int) -> (rungs: [Int], ms: Double, gain: Double) {
        let allowed = improvements.filter { $0.rung < top }
        let spent = runningSums(allowed.map(\.price))
        let count = upperBound(spent, spareMs)
        var rungs = [Int](repeating: 0, count: steps)
        for improvement in allowed.prefix(count) { rungs[improvement.step] += 1 }
        return (rungs, count == 0 ? 0 : spent[count - 1], pairwiseSum(allowed.prefix(count).map(\.gain)))
    }

    private static func mostWorthFirst(_ improvements: [Improvement]) -> [Improvement] {
        let worth = improvements.map { $0.gain / $0.price }
        let most = worth.reduce(0, max)
        let scale = most == 0 ? 1 : most
        let rounded = worth.map { ($0 / scale * worthUnit).rounded(.toNearestOrEven) / worthUnit }
        return zip(improvements, rounded).stablySorted { $0.1 > $1.1 }.map(\.0)
    }

    /// The last step of Heun's method evaluates the model once, the others twice.
    private static func evaluations(_ solver: Solver, _ steps: Int) -> [Double] {
        var counts = [Double](repeating: solver == .heun ? 2 : 1, count: steps)
        counts[steps - 1] = 1
        return counts
    }
}

/// Indices on the lower convex hull that still fall, cheapest first: the budgets that are worth their time.
private func lowerHull(costs: [Double], losses: [Double]) -> [Int] {
    let order = costs.indices.stablySorted { (costs[$0], losses[$0]) < (costs[$1], losses[$1]) }
    var hull: [Int] = []
    for i in order {
        if let last = hull.last, losses[i] >= losses[last] || costs[i] == costs[last] { continue }
        while hull.count > 1 {
            let (a, b) = (hull[hull.count - 2], hull[hull.count - 1])
            if (losses[a] - losses[b]) * (costs[i] - costs[b]) > (losses[b] - losses[i]) * (costs[b] - costs[a]) {
                break
            }
            hull.removeLast()
        }
        hull.append(i)
    }
    return hull
}
