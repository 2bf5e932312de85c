import Foundation

/// Plans for one bundle on one device: which runtime, steps, budgets and guidance make the best pictures within a
/// bound. No clock, no model.
///
/// For each runtime, guidance and number of steps the frontier (`Curve`) gives the best plan within the bound; the best
/// of those is the plan.
public struct Planner: Sendable {
    /// Standard deviations that a plan's time is kept by without the governor's help: in nine of ten runs.
    private static let deviates = 1.2815515655446008
    /// No machine's speed is steadier than this from one second to the next.
    private static let leastDrift = 0.04
    /// How much each step of a run counts for the slowdown that the next plan expects.
    private static let learning = 0.4
    /// Numbers of steps that are considered lie this far apart.
    private static let stepRatio = 1.12
    /// Checks and pixels after the last step, in units of the solver's arithmetic of a step.
    private static let finishes = 4.0
    /// Of a step from the estimate: however steady the last ones were, and the most that is learned from one.
    static let deviations = 0.1...0.25
    /// A step is begun if it would end in time even so many mean deviations late.
    static let spreads = 5.0

    public let candidates: [Costs]
    public let loss: Loss
    /// Of one pass for one sample at each budget of the bundle.
    public let flops: [Int: Int]
    /// How far a precision's pictures are from float32's, by precision; a table is of float32's.
    public let departures: [String: Double]
    /// Measured over predicted time, as runs and spot checks have found it lately: the machine is not always as fast
    /// as when it was profiled.
    public internal(set) var slowdown: Double
    /// How far a step's time lies from what the steps before it let expect, on the mean, as found lately.
    public internal(set) var deviation = deviations.lowerBound

    private let stepCounts: [Int]
    /// Those whose loss is known, for each variant.
    private let budgets: [Variant: [Int]]

    /// - Throws: `ElitEdgeError.request` where the quality table and the budgets have nothing in common.
    public init(
        candidates: [Costs], loss: Loss, flops: [Int: Int], departures: [String: Double] = [:], slowdown: Double = 1
    ) throws {
        (self.candidates, self.loss, self.flops, self.departures) = (candidates, loss, flops, departures)
        self.slowdown = slowdown
        stepCounts = Self.counts(loss.stepCounts)
        budgets = try Dictionary(
            uniqueKeysWithValues: loss.variants.map { variant in
                let measured = loss.measuredLatents(variant)
                let known = flops.keys.filter(measured.contains).sorted()
                let weak = variant.guidance == .ccfg || variant.guidance == .autoguidance ? variant.weakLatents : nil
                guard !known.isEmpty, weak.map({ flops[$0] != nil }) ?? true else {
                    throw ElitEdgeError.request(
                        "\(variant.guidance.rawValue) weak \(variant.weakLatents) was measured at \(measured) latents, and "
                            + "the bundle has \(flops.keys.sorted()); measure it again: elit-edge evaluate BUNDLE")
                }
                return (variant, known)
            })
    }

    /// A planner for a bundle: with its own quality table, or the paper's figures until it has one.
    public init(
        manifest: Manifest, profiles: [Profile], departures: [String: Double] = [:], slowdown: Double = 1
    ) throws {
        let defaults = manifest.sampler
        let table =
            manifest.quality
            ?? .published(
                latentsPerGroup: manifest.latentsPerGroup, guidance: defaults.guidance,
                weakLatents: defaults.weakLatents, scale: defaults.scale)
        let flops = Dictionary(
            manifest.ladder.map { ($0.latents, $0.velocityFlops) }, uniquingKeysWith: { _, last in last })
        try self.init(
            candidates: profiles.map { try Costs($0, flops: flops) }, loss: Loss(table), flops: flops,
            departures: departures, slowdown: slowdown)
    }

    /// The best plan within the bounds.
    ///
    /// - Throws: `PlanError.deadline` where no plan is fast enough; `PlanError.plan` where none fits the memory or energy,
    ///   or none can be held against it. The error's `nearest` is the plan that comes closest.
    public func plan(_ wish: Wish) throws -> Plan {
        let options = try options(wish)
        guard let best = options.filter({ $0.fault == nil }).min(by: { $0.rank < $1.rank }) else {
            throw refusal(of: wish, options.map { plan(of: $0, for: wish) })
        }
        return plan(of: best, for: wish)
    }

    /// The best plan of each runtime, guidance and number of steps, best first, with "chosen", "worse", or why it does
    /// not fit: what `plan` chose from.
    ///
    /// - Throws: as `plan`.
    public func table(_ wish: Wish) throws -> [(plan: Plan, verdict: String)] {
        let options = try options(wish)
        let fitting = options.filter { $0.fault == nil }.stablySorted { $0.rank < $1.rank }
        guard !fitting.isEmpty else { throw refusal(of: wish, options.map { plan(of: $0, for: wish) }) }
        let failing = options.filter { $0.fault != nil }.stablySorted { $0.expectedMs < $1.expectedMs }
        return fitting.enumerated().map { (plan(of: $1, for: wish), $0 == 0 ? "chosen" : "worse") }
            + failing.map { (plan(of: $0, for: wish), $0.fault ?? "") }
    }

    /// Expect of the next run what the last one of `steps` steps was like: its speed, and how unsteady that was.
    public mutating func learn(ratio: Double, deviation found: Double, steps: Int) {
        let jump = min(abs(ratio / slowdown - 1), Self.deviations.upperBound)
        deviation += Self.learning * (max(found, jump, Self.deviations.lowerBound) - deviation)
        slowdown += (1 - pow(1 - Self.learning, Double(steps))) * (ratio - slowdown)
    }
}

// What a run needs of its planner.
extension Planner {
    /// The costs of the plan's runtime.
    func costs(of plan: Plan) throws -> Costs {
        let own = candidates.first { ($0.profile.runtime, $0.profile.precision) == (plan.runtime, plan.precision) }
        guard let own else {
            throw ElitEdgeError.request(
                "no costs of \(plan.runtime) \(plan.precision) to go on with this plan; measure that runtime, or plan "
                    + "for one of: \(candidates.map { "\($0.profile.runtime) \($0.profile.precision)" })")
        }
        return own
    }

    /// - Throws: `ElitEdgeError.request` where the plan is of another runtime, table or bundle.
    func check(_ plan: Plan) throws {
        _ = try costs(of: plan)
        let known = budgets[Variant(plan.guidance, plan.weakLatents)] ?? []
        guard plan.solver == loss.table.solver, !plan.latents.isEmpty, plan.latents.allSatisfy(known.contains) else {
            throw ElitEdgeError.request("\(plan): not a plan of this planner's quality table; plan again")
        }
    }

    /// All ways to go on with a plan over the times that are left.
    func rest(_ costs: Costs, _ variant: Variant, grid: [Double], batch: Int) -> Curve {
        Curve(
            loss: loss, variant: variant, budgets: budgets[variant] ?? [], stepMs: stepsMs(costs, variant, batch),
            grid: grid)
    }

    /// The cheapest step of a runtime and guidance.
    func leastMs(_ costs: Costs, _ variant: Variant, batch: Int) -> Double {
        stepsMs(costs, variant, batch).min() ?? 0
    }

    /// The weak budgets that a plan's guidance may fall back to, its own first, then less and less.
    func weaker(_ plan: Plan) -> [Int] {
        let own = loss.variants.filter { $0.guidance == plan.guidance && $0.weakLatents < plan.weakLatents }
        return [plan.weakLatents] + own.map(\.weakLatents).sorted(by: >)
    }

    /// What is left to do after the last step.
    func finishMs(_ costs: Costs, batch: Int) -> Double {
        Self.finishes * costs.profile.solverMs * Double(batch)
    }

    /// A step of one evaluation at each budget.
    private func stepsMs(_ costs: Costs, _ variant: Variant, _ batch: Int) -> [Double] {
        (budgets[variant] ?? []).map { costs.stepMs(latents: $0, batch: batch, variant) }
    }
}

// How a plan is found.
extension Planner {
    /// The best way to fulfil a wish with one runtime, guidance and number of steps; the cheapest where none fits.
    private struct Option {
        let costs: Costs
        let curve: Curve
        let loss: Double
        let expectedMs: Double
        let margin: Double
        let memoryBytes: Int?
        let boundMs: Double
        /// Of the bound, what is left for the steps, at the speed that was profiled.
        let stepBoundMs: Double
        let top: Int?
        let fault: String?

        /// Best first.
        var rank: (Double, Double) { (loss, expectedMs) }
    }

    /// The best of each runtime, guidance and number of steps, or what it breaks.
    private func options(_ wish: Wish) throws -> [Option] {
        try wish.check()
        let variants = try variants(wish)
        let grids = try stepCounts.map(loss.table.solver.times(steps:))
        return candidates.flatMap { costs in
            variants.flatMap { variant in
                grids.map { option(costs, rest(costs, variant, grid: $0, batch: wish.batch), wish) }
            }
        }
    }

    private func option(_ costs: Costs, _ curve: Curve, _ wish: Wish) -> Option {
        let profile = costs.profile
        let overhead = overheadMs(costs, curve.steps, wish)
        // the fewer steps, the less can be made up for by the governor
        let margin = max(
            Self.deviates * max(profile.drift, Self.leastDrift), Self.spreads * deviation / Double(curve.steps))
        let watts = profile.watts ?? 0
        var bound = wish.deadlineMs ?? .infinity
        if let joules = wish.joules, watts > 0 { bound = min(bound, joules / watts * 1e3) }
        let memory = costs.memoryBytes(batch: curve.variant.guidance == .cfg ? 2 * wish.batch : wish.batch)
        let top = wish.cap >= 1 ? nil : curve.top(cap: wish.cap, flops: flops)
        let stepBound = bound / ((1 + margin) * slowdown) - overhead
        let fitted = curve.fit(stepBound, top: top)
        var fault = fitted == nil ? (bound == wish.deadlineMs ? "too slow" : "too much energy") : nil
        if !Self.isWithin(memory.map(Double.init), wish.memoryBytes.map(Double.init)) {
            fault = memory == nil ? "memory not measured" : "too much memory"
        }
        if wish.joules != nil, watts <= 0 { fault = "no energy sensor" }
        let (stepsMs, stepsLoss) = fitted ?? (curve.baseMs, curve.baseLoss)
        let departure = departures[profile.precision] ?? 0
        return Option(
            costs: costs, curve: curve, loss: stepsLoss + departure * departure,
            expectedMs: (stepsMs + overhead) * slowdown, margin: margin, memoryBytes: memory, boundMs: bound,
            stepBoundMs: fitted == nil ? curve.baseMs : stepBound, top: top, fault: fault)
    }

    /// What a run costs beside its steps: waking, conditions and the end.
    private func overheadMs(_ costs: Costs, _ steps: Int, _ wish: Wish) -> Double {
        let around = costs.profile.wakingMs + finishMs(costs, batch: wish.batch)
        return costs.conditionMs(rows: steps * wish.classes) + around
    }

    private func plan(of option: Option, for wish: Wish) -> Plan {
        let profile = option.costs.profile
        let isBounded = wish.deadlineMs != nil || (wish.joules != nil && option.boundMs < .infinity)
        return Plan(
            runtime: profile.runtime, precision: profile.precision, solver: loss.table.solver,
            guidance: option.curve.variant.guidance, weakLatents: option.curve.variant.weakLatents,
            latents: option.curve.latents(option.stepBoundMs, top: option.top),
            distance: max(option.loss, 0).squareRoot(), expectedMs: option.expectedMs, margin: option.margin,
            memoryBytes: option.memoryBytes, joules: option.costs.joules(ms: option.expectedMs),
            boundMs: isBounded ? option.boundMs : nil)
    }

    private func variants(_ wish: Wish) throws -> [Variant] {
        guard let wanted = wish.guidance else { return loss.variants }
        let found = loss.variants.filter { $0.guidance == wanted }
        guard !found.isEmpty else {
            var known: [String] = []
            for name in loss.variants.map(\.guidance.rawValue) where !known.contains(name) { known.append(name) }
            throw PlanError.plan(
                "guidance \(wanted.rawValue) is not in the bundle's quality table, which has: "
                    + "\(known.joined(separator: ", ")); choose one of them, or give steps and latents instead of a bound",
                nearest: nil)
        }
        return found
    }

    /// Numbers of steps worth comparing.
    private static func counts(_ range: ClosedRange<Int>) -> [Int] {
        var counts = [range.lowerBound]
        var last = range.lowerBound
        var value = Double(last)
        while last < range.upperBound {
            value = max(value * stepRatio, Double(last) + 1)
            last = min(Int(value.rounded(.toNearestOrEven)), range.upperBound)
            counts.append(last)
        }
        return counts
    }

    static func isWithin(_ value: Double?, _ bound: Double?) -> Bool {
        guard let bound else { return true }
        return value.map { $0 <= bound * (1 + Curve.rounding) } ?? false
    }
}
