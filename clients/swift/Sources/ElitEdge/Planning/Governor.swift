/// After every step it holds the clock against the plan, and plans again what is left.
///
/// `next` gives the moves. Behind time, budgets fall, then the weak budget of the guidance, then the number of steps,
/// as far as the quality table says that this loses least; with time to spare they rise again. When not even the
/// cheapest step would end in time, the run lands: the finished sample that the last step predicted is the result.
struct Governor: Sendable {
    /// How much one step's time moves the estimate of the machine's speed: quick to see it slow down, slower to trust
    /// it.
    private static let slowerShare = 0.5
    private static let fasterShare = 0.25
    /// What one step may teach: a single stall is no reason to take the machine for a slow one.
    private static let largestGrowth = 2.0
    /// Of measured over predicted time; beyond it the clock jumped.
    private static let ratios = 0.1...100.0
    /// Share of the whole time that must lie idle, beside the plan's margin, before budgets rise.
    private static let spare = 0.05
    /// So far behind time, fewer steps at larger budgets are compared with the same steps at smaller ones.
    private static let serious = 1.25
    private static let pressureEverySeconds = 1.0
    /// The system itself pauses a process for so long now and then.
    private static let pauseMs = 1.5

    private(set) var changes: [DeadlineReport.Change] = []
    /// Whether the run ended before the last time of the grid.
    private(set) var landed = false
    /// Time that the governor itself took.
    private(set) var ownMs = 0.0
    /// Measured over predicted time of a step, as estimated now.
    private(set) var ratio: Double
    /// How far a step lies from that estimate, on the mean.
    private(set) var deviation: Double

    private let planner: Planner
    private let plan: Plan
    private let costs: Costs
    private let grid: [Double]
    private let batch: Int
    private let endsAt: Double
    private let pressure: SustainableShare?
    private let clock: SecondsClock
    private let begun: Double
    private let spareMs: Double
    private let leastMs: Double
    /// The weak budgets that may be used, the plan's own first.
    private let weaker: [Int]
    /// All ways over the whole run, by weak budget.
    private let whole: [Int: Curve]

    private var pressedAt: Double
    private var cap: Double
    private var whyCapped = ""
    private var weak: Int
    /// Index into the grid.
    private var at = 0
    private var done = 0
    private var way: Way
    /// Of the step that was given and not yet observed.
    private var predictedMs: Double?

    /// How the run goes on.
    private struct Way {
        let curve: Curve
        /// Index into the grid at the end of each step left.
        var path: ArraySlice<Int>
        var latents: ArraySlice<Int>
        var evaluations: ArraySlice<Double>
        /// Predicted for all steps left.
        var leftMs: Double

        init(_ curve: Curve, path: [Int], latents: [Int]) {
            self.curve = curve
            self.path = path[...]
            self.latents = latents[...]
            evaluations = curve.evaluations[...]
            leftMs = zip(latents, curve.evaluations).reduce(0) { $0 + curve.cost($1.0) * $1.1 }
        }

        /// Predicted for the next step at a budget.
        func nextMs(_ budget: Int) -> Double { curve.cost(budget) * (evaluations.first ?? 1) }
    }

    /// Made for one run, just before its first step.
    ///
    /// - Parameters:
    ///   - planner: with the costs of the runtime that the run has.
    ///   - plan: to keep as long as it goes well.
    ///   - grid: the times of the plan.
    ///   - batch: pictures made at once.
    ///   - endsAt: when the last step must be over, in seconds of `clock`.
    ///   - pressure: asked once a second.
    ///   - cap: the share of the full budget that the plan was made for.
    ///   - clock: seconds, monotonic.
    /// - Throws: `ElitEdgeError.request` where the plan is of another runtime, table or bundle.
    init(
        planner: Planner, plan: Plan, grid: [Double], batch: Int, endsAt: Double, pressure: SustainableShare? = nil,
        cap: Double = 1, clock: @escaping SecondsClock = monotonicSeconds
    ) throws {
        try planner.check(plan)
        let costs = try planner.costs(of: plan)
        let weaker = planner.weaker(plan)
        let whole = Dictionary(
            uniqueKeysWithValues: weaker.map {
                ($0, planner.rest(costs, Variant(plan.guidance, $0), grid: grid, batch: batch))
            })
        (self.planner, self.plan, self.costs, self.grid, self.batch) = (planner, plan, costs, grid, batch)
        (self.endsAt, self.pressure, self.cap, self.clock) = (endsAt, pressure, cap, clock)
        (self.weaker, self.whole) = (weaker, whole)
        begun = clock()
        pressedAt = begun
        spareMs = Self.spare * (endsAt - begun) * 1e3
        leastMs = weaker.map { planner.leastMs(costs, Variant(plan.guidance, $0), batch: batch) }.min() ?? 0
        (ratio, deviation) = (planner.slowdown, planner.deviation)
        weak = plan.weakLatents
        way = Way(whole[plan.weakLatents]!, path: Array(1..<grid.count), latents: plan.latents)
    }

    /// Steps still to come, as planned now.
    var stepsLeft: Int { way.path.count }

    /// The budget of the next step, as planned now.
    var nextLatents: Int? { way.latents.first }

    /// The next step; nil at the end of the grid, or where no further step would end in time.
    mutating func next() -> Move? {
        guard !way.path.isEmpty, !landed else { return nil }
        let asked = clock()
        defer { ownMs += (clock() - asked) * 1e3 }
        let remainingMs = (endsAt - asked) * 1e3
        if done > 0, !steer(remainingMs) {
            landed = true
            return nil
        }
        holdNext(remainingMs)
        let to = way.path.removeFirst()
        let latents = way.latents.removeFirst()
        let predicted = way.curve.cost(latents) * way.evaluations.removeFirst()
        way.leftMs -= predicted
        (predictedMs, at) = (predicted, to)
        done += 1
        return Move(to: to, latents: latents, weakLatents: weak)
    }

    /// Learn from how long the step took that `next` gave last.
    mutating func observe(elapsedMs: Double) {
        guard let predicted = predictedMs else { return }
        predictedMs = nil
        let found = min(max(elapsedMs / predicted, Self.ratios.lowerBound), Self.ratios.upperBound)
        let seen = min(found, Self.largestGrowth * ratio)
        let share = seen > ratio ? Self.slowerShare : Self.fasterShare
        let off = min(abs(seen / ratio - 1), Planner.deviations.upperBound)
        deviation += Self.fasterShare * (off - deviation)
        ratio += share * (seen - ratio)
    }

    /// Plan again where it is needed; false where no further step would end in time.
    private mutating func steer(_ remainingMs: Double) -> Bool {
        if lateMs(leastMs) > remainingMs { return false }
        let expected = way.leftMs * ratio
        let pressed = feelPressure()
        if expected > remainingMs || lateMs(way.curve.leastMs) > remainingMs {
            planAgain(remainingMs, "behind time")
        } else if expected * (1 + plan.margin) + spareMs < remainingMs, canRise {
            planAgain(remainingMs, "time to spare")
        } else if pressed {
            planAgain(remainingMs, whyCapped.isEmpty ? "the device has recovered" : whyCapped)
        }
        return true
    }

    /// What a step takes that comes late.
    private func lateMs(_ predictedMs: Double) -> Double {
        let expected = ratio * predictedMs
        return expected
            + max(expected * Planner.spreads * max(deviation, Planner.deviations.lowerBound), Self.pauseMs)
    }

    /// Take the next step at a budget at which it would end in time even if it came late.
    private mutating func holdNext(_ remainingMs: Double) {
        guard let planned = way.latents.first, lateMs(way.nextMs(planned)) > remainingMs else { return }
        let dearest = way.curve.budgets.dropFirst().last { lateMs(way.nextMs($0)) <= remainingMs }
        let budget = dearest ?? way.curve.budgets[0]
        guard budget != planned else { return }
        way.leftMs += (way.curve.cost(budget) - way.curve.cost(planned)) * (way.evaluations.first ?? 1)
        way.latents[way.latents.startIndex] = budget
        record("the next step would end late")
    }

    private mutating func record(_ why: String) {
        changes.append(
            DeadlineReport.Change(
                step: done, atMs: (clock() - begun) * 1e3, why: why, stepsLeft: stepsLeft,
                latents: Array(way.latents), weakLatents: weak))
    }

    private var canRise: Bool {
        (way.latents.min() ?? 0) < way.curve.budgets[top(way.curve)] || way.path.count < grid.count - 1 - at
    }

    private func top(_ curve: Curve) -> Int { curve.top(cap: cap, flops: planner.flops) }

    /// Whether the share of the budget that the device should carry has changed; asked for once a second.
    private mutating func feelPressure() -> Bool {
        let now = clock()
        guard let pressure, now - pressedAt >= Self.pressureEverySeconds else { return false }
        pressedAt = now
        let before = cap
        (cap, whyCapped) = pressure()
        return cap != before
    }

    /// The way on that loses least: over all times left or fewer, with the plan's weak pass or a weaker one.
    private mutating func planAgain(_ remainingMs: Double, _ why: String) {
        let marginMs = remainingMs * plan.margin / (1 + plan.margin)
        let heldMs = max(marginMs, lateMs(leastMs) - ratio * leastMs)
        let bound = max(remainingMs - heldMs, 0) / ratio
        var best: (loss: Double, ms: Double, path: [Int], weak: Int, curve: Curve)?
        for weak in weaker {
            for path in paths(bound, weak) {
                let curve = curve(over: path, weak)
                let loss = curve.fit(bound, top: top(curve))?.loss ?? .infinity
                if best.map({ (loss, curve.baseMs) < ($0.loss, $0.ms) }) ?? true {
                    best = (loss, curve.baseMs, path, weak, curve)
                }
            }
        }
        guard let best else { return }
        let latents = best.curve.latents(bound, top: top(best.curve))
        let isNew = (Array(way.path), Array(way.latents), weak) != (best.path, latents, best.weak)
        weak = best.weak
        way = Way(best.curve, path: best.path, latents: latents)
        if isNew { record(why) }
    }

    /// All plans over these times; those over every time that is left are a part of the whole run's.
    private func curve(over path: [Int], _ weak: Int) -> Curve {
        if path.count == grid.count - 1 - at, let whole = whole[weak] { return whole.tail(at) }
        let times = [grid[at]] + path.map { grid[$0] }
        return planner.rest(costs, Variant(plan.guidance, weak), grid: times, batch: batch)
    }

    /// Ways over the grid to its end that are worth comparing: the one in use, all times, and fewer in need.
    private func paths(_ boundMs: Double, _ weak: Int) -> [[Int]] {
        let last = grid.count - 1
        let left = last - at
        let steps = boundMs / planner.leastMs(costs, Variant(plan.guidance, weak), batch: batch)
        let fitting = max(1, Int(min(Double(left), steps)))
        var counts: Set = [way.path.count, left, fitting]
        if way.leftMs > Self.serious * boundMs { counts.formUnion([left * 3 / 4, left / 2]) }
        return counts.filter { 0 < $0 && $0 <= fitting }.sorted().map { Self.spread(at, last, $0) }
    }

    /// `count` indices after `at`, evenly spread, the last one at the end.
    private static func spread(_ at: Int, _ last: Int, _ count: Int) -> [Int] {
        (1...count).map { at + Int((Double($0 * (last - at)) / Double(count)).rounded(.toNearestOrEven)) }
    }
}
