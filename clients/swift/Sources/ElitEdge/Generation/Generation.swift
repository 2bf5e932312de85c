/// What a watcher of a run is told after each step.
public struct GenerationProgress: Sendable {
    /// Steps done, 1...steps.
    public let step: Int
    /// In all, as planned now; a deadline may change it.
    public let steps: Int
    public let latents: Int
    /// Since the call of `generate`.
    public let elapsedMs: Double
    /// The finished pictures as this step predicts them, at the chosen interval; nil between, or without pixels.
    public let preview: [Picture]?
}

/// What a run made, and how.
public struct Generation: Sendable {
    /// [B, C, S, S].
    public let samples: [Double]
    /// [B]; nil for a model of latents.
    public let pictures: [Picture]?
    public let labels: [Int]
    /// The budget of each step that was taken.
    public let latents: [Int]
    public let solver: Solver
    public let guidance: Guidance
    /// nil where nothing was drawn from it: the noise was given, and the solver draws none.
    public let seed: UInt64?
    /// Wall time of each step, without conditions.
    public let stepMs: [Double]
    /// Wall time of the conditions of all steps.
    public let conditionMs: Double
    /// nil where no deadline was given.
    public let deadline: DeadlineReport?
}

/// Makes one sample for each label.
///
/// To cancel it, cancel the task that it runs in: it ends before its next step.
///
/// - Parameters:
///   - labels: classes by number, one a sample; `Manifest.label` has the number of a name.
///   - progress: called after each step; the next one waits for it.
/// - Throws: `ElitEdgeError.request`: a value that the model or the samplers do not know. `.picture`: a sample that is
///   not finite, or the same everywhere. `.cancelled`: the task was. What the model throws.
public func generate(
    _ model: some VelocityModel, labels: [Int], settings: GenerationSettings = GenerationSettings(),
    progress: (@Sendable (GenerationProgress) async -> Void)? = nil
) async throws -> Generation {
    let begun = ContinuousClock.now
    let manifest = model.manifest
    let guidance = try settings.chosenGuidance(manifest)
    let budgets = try settings.budgets(manifest)
    let solver = settings.solver ?? manifest.sampler.solver
    var pace = EvenPace(budgets: budgets, weakLatents: guidance.weakLatents)
    var run = try Run(
        model, labels, settings, solver: solver, steps: budgets.count, guidance: guidance, begun: begun)
    try await run.follow(&pace, progress)
    return try run.finished(deadline: nil)
}

/// Makes the best pictures that the device can make in the time of a `DeadlineRun`, which has planned steps, budgets,
/// solver, guidance and weak pass, and changes them on the way where the device turns out slower or faster.
///
/// - Parameters:
///   - deadline: made just before; afterwards its `planner` has learned from this run.
///   - settings: without what the plan decides.
/// - Throws: as `generate` without a deadline.
public func generate(
    _ model: some VelocityModel, labels: [Int], deadline: inout DeadlineRun,
    settings: GenerationSettings = GenerationSettings(),
    progress: (@Sendable (GenerationProgress) async -> Void)? = nil
) async throws -> Generation {
    let begun = ContinuousClock.now
    let plan = deadline.plan
    let settings = try settings.planned(plan)
    let guidance = try settings.chosenGuidance(model.manifest)
    var run = try Run(
        model, labels, settings, solver: plan.solver, steps: plan.steps, guidance: guidance, begun: begun)
    try await run.lookAhead()
    try deadline.begin(times: run.grid)
    try await run.follow(&deadline, progress)
    return try run.finished(deadline: deadline.report(taken: run.taken))
}

extension GenerationSettings {
    /// These settings with what a plan decides.
    fileprivate func planned(_ plan: Plan) throws -> GenerationSettings {
        let decided: [(String, Bool)] = [
            ("steps", steps != nil), ("latents", latents != nil), ("solver", solver != nil),
            ("guidance", guidance != nil), ("weakLatents", weakLatents != nil),
        ]
        let given = decided.filter(\.1).map(\.0)
        guard given.isEmpty else {
            throw ElitEdgeError.request(
                "\(given.joined(separator: " and ")) beside a deadline: leave them to the plan, or leave the deadline")
        }
        var settings = self
        settings.guidance = plan.guidance
        settings.weakLatents = plan.weakLatents
        return settings
    }
}
