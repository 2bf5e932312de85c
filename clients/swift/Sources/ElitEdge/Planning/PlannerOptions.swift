// How a plan is found.
extension Planner {
    /// The best way to fulfil a wish with one runtime, guidance and number of steps; the cheapest where none fits.
    struct Option {
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
    func options(_ wish: Wish) throws -> [Option] {
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

    func plan(of option: Option, for wish: Wish) -> Plan {
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
                    + "\(known.joined(separator: ", ")); choose one of them, or give steps and latents instead of a "
                    + "bound",
                nearest: nil)
        }
        return found
    }

    static func isWithin(_ value: Double?, _ bound: Double?) -> Bool {
        guard let bound else { return true }
        return value.map { $0 <= bound * (1 + Curve.rounding) } ?? false
    }
}
