import Foundation

/// One run with a deadline: its plan, its steps as the governor decides them, and the report of what came of it.
///
///     var run = try DeadlineRun(planner: planner, classes: classes, begun: begun, deadlineMs: 800)
///     let grid = try run.plan.solver.times(steps: run.plan.steps)
///     try run.begin(times: grid)
///     while let move = run.next() {
///         let started = clock()
///         // the step of `move`
///         run.observe(elapsedMs: (clock() - started) * 1e3)
///     }
///     let report = run.report(taken: moves)
///
/// `next` gives nil when the last time is reached, and when no further step would end in time: then the finished
/// sample that the last step predicted is the result.
public struct DeadlineRun: Sendable {
    public let plan: Plan
    /// From `begun` until the pictures are ready; nil: nothing bounds the time, and the plan is followed as it stands.
    public let deadlineMs: Double?
    /// What plans were made with; `report` teaches it what the run was like. Keep it for the next run.
    public private(set) var planner: Planner

    private let batch: Int
    private let begun: Double
    private let cap: Double
    private let pressure: SustainableShare?
    private let clock: SecondsClock
    private var grid: [Double] = []
    private var governor: Governor?
    private var given = 0

    /// A run that is planned here, or that follows a plan.
    ///
    /// - Parameters:
    ///   - planner: with the costs of the model that makes the run.
    ///   - classes: the label of each picture.
    ///   - begun: when its time began, in seconds of `clock`.
    ///   - deadlineMs: milliseconds from `begun`; nil only beside a plan, whose bound is then the deadline.
    ///   - plan: in place of one made here.
    ///   - guidance: that the user insists on; no guidance at all is `GuidanceKind.none`, for `.none` alone is nil.
    ///   - pressure: asked once a second what the device should carry.
    ///   - clock: seconds, monotonic.
    /// - Throws: `ElitEdgeError.request` where the deadline is no time or missing, or the plan is of another model;
    ///   `PlanError` where no plan keeps the deadline.
    public init(
        planner: Planner, classes: [Int], begun: Double, deadlineMs: Double?, plan: Plan? = nil,
        guidance: GuidanceKind? = nil, pressure: SustainableShare? = nil, clock: @escaping SecondsClock = monotonicSeconds
    ) throws {
        guard !classes.isEmpty else {
            throw ElitEdgeError.request("no labels; give one for each picture")
        }
        if let deadlineMs, !(deadlineMs > 0 && deadlineMs < .infinity) {
            throw ElitEdgeError.request("deadline = \(deadlineMs) ms: must be a number above 0")
        }
        self.planner = planner
        self.begun = begun
        self.pressure = pressure
        self.clock = clock
        batch = classes.count
        cap = pressure?().share ?? 1
        if let plan {
            try planner.check(plan)
            self.plan = plan
        } else {
            guard let deadlineMs else {
                throw ElitEdgeError.request("a run against the clock needs a deadline or a plan; give one of them")
            }
            let leftMs = (begun + deadlineMs / 1e3 - clock()) * 1e3
            guard leftMs > 0 else {
                throw PlanError.deadline(
                    "of \(fixed(deadlineMs, digits: 0)) ms nothing was left before the first step; "
                        + "measure the model ahead and keep its profile", nearest: nil)
            }
            // the null class of cfg and ccfg is one class more
            let wish = Wish(
                batch: batch, classes: Set(classes).count + 1, deadlineMs: leftMs, guidance: guidance, cap: cap)
            self.plan = try planner.plan(wish)
        }
        self.deadlineMs = deadlineMs ?? self.plan.boundMs
    }

    /// Steps still to come, as planned now.
    public var stepsLeft: Int { governor?.stepsLeft ?? plan.steps - given }

    /// The budget of the next step, as planned now; nil after the last.
    public var nextLatents: Int? {
        if let governor { return governor.nextLatents }
        return given < plan.steps ? plan.latents[given] : nil
    }

    /// Hand the run to the governor. Call just before the first step.
    ///
    /// - Parameter times: of the plan, [steps + 1], from 1 down to 0.
    /// - Throws: `ElitEdgeError.request` where their number is not the plan's.
    public mutating func begin(times: [Double]) throws {
        guard times.count == plan.steps + 1 else {
            throw ElitEdgeError.request(
                "\(times.count) times for a plan of \(plan.steps) steps; give one more than steps")
        }
        grid = times
        guard let deadlineMs else { return }
        let endsAt = begun + (deadlineMs - planner.finishMs(try planner.costs(of: plan), batch: batch)) / 1e3
        governor = try Governor(
            planner: planner, plan: plan, grid: times, batch: batch, endsAt: endsAt, pressure: pressure, cap: cap,
            clock: clock)
    }

    /// The next step; nil at the end of the run.
    public mutating func next() -> Move? {
        if governor != nil { return governor?.next() }
        guard given < plan.steps else { return nil }
        given += 1
        return Move(to: given, latents: plan.latents[given - 1], weakLatents: plan.weakLatents)
    }

    /// How long the step took that `next` gave last.
    public mutating func observe(elapsedMs: Double) {
        governor?.observe(elapsedMs: elapsedMs)
    }

    /// What came of the run; to be called once, when its pictures are ready. Nil where no time was bound.
    ///
    /// - Parameter taken: the steps that were made, at least one.
    public mutating func report(taken: [Move]) -> DeadlineReport? {
        guard let governor, let deadlineMs, !taken.isEmpty else { return nil }
        planner.learn(ratio: governor.ratio, deviation: governor.deviation, steps: taken.count)
        var visited = [0] + taken.map(\.to)
        visited[visited.count - 1] = grid.count - 1  // a run that ended early went from its last step's start to 0
        let steps = taken.map { (Variant(plan.guidance, $0.weakLatents), $0.latents) }
        let run = planner.loss.distance(grid: visited.map { grid[$0] }, steps: steps)
        let departure = planner.departures[plan.precision] ?? 0
        return DeadlineReport(
            plan: plan, deadlineMs: deadlineMs, elapsedMs: (clock() - begun) * 1e3, changes: governor.changes,
            landed: governor.landed, distance: hypot(run, departure),
            governorMs: governor.ownMs)
    }
}
