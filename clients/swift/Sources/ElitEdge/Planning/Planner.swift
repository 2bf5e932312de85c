import Foundation

/// Plans for one bundle on one device: which runtime, steps, budgets and guidance make the best pictures within a
/// bound. No clock, no model.
///
/// For each runtime, guidance and number of steps the frontier (`Curve`) gives the best plan within the bound; the best
/// of those is the plan.
public struct Planner: Sendable {
    /// Standard deviations that a plan's time is kept by without the governor's help: in nine of ten runs.
    static let deviates = 1.2815515655446008
    /// No machine's speed is steadier than this from one second to the next.
    static let leastDrift = 0.04
    /// How much each step of a run counts for the slowdown that the next plan expects.
    private static let learning = 0.4
    /// Numbers of steps that are considered lie this far apart.
    private static let stepRatio = 1.12
    /// Checks and pixels after the last step, in units of the solver's arithmetic of a step.
    static let finishes = 4.0
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

    /// Worth comparing.
    let stepCounts: [Int]
    /// Those whose loss is known, for each variant.
    let budgets: [Variant: [Int]]

    /// - Parameter candidates: at least one.
    /// - Throws: `ElitEdgeError.request` where there is none, or the quality table and the budgets have nothing in
    ///   common.
    public init(
        candidates: [Costs], loss: Loss, flops: [Int: Int], departures: [String: Double] = [:], slowdown: Double = 1
    ) throws {
        guard !candidates.isEmpty else {
            throw ElitEdgeError.request("no profile to plan with; measure the model first")
        }
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
                        "\(variant.guidance.rawValue) weak \(variant.weakLatents) was measured at \(measured) latents, "
                            + "and the bundle has \(flops.keys.sorted()); measure it again: elit-edge evaluate BUNDLE")
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
    /// - Throws: `PlanError.deadline` where no plan is fast enough; `PlanError.plan` where none fits the memory or
    ///   energy, or none can be held against it. The error's `nearest` is the plan that comes closest.
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
}
