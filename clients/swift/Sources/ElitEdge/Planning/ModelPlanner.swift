/// The planner of one model on this device, kept over its runs: measured or checked before the first of them, taught by
/// each. Runs take turns.
///
///     let keeper = ModelPlanner(model, runtime: "coreml", precision: "fp16", version: "18.1", profile: saved)
///     let begun = monotonicSeconds()
///     let planner = try await keeper.ready(deadlineMs: 800)
///     var run = try DeadlineRun(planner: planner, classes: [3], begun: begun, deadlineMs: 800)
///     // generate with it
///     await keeper.learn(from: run)
public actor ModelPlanner {
    /// Of a deadline, for measuring a model that has no profile yet.
    private static let measuringShare = 0.1
    /// Of the first deadline, for finding out whether the device is as fast today as it was profiled.
    private static let checkingShare = 0.1

    /// What was measured; keep it, and give it to the next launch of the app on this device.
    public private(set) var profile: Profile?

    private let model: any VelocityModel
    private let names: (runtime: String, precision: String, version: String)
    private let departures: [String: Double]
    private let clock: SecondsClock
    private var planner: Planner?

    /// - Parameters:
    ///   - runtime: names the model in plans, as `precision` and `version` do.
    ///   - profile: of this model on this device; nil: it is measured before its first run.
    ///   - departures: how far a precision's pictures are from float32's.
    public init(
        _ model: any VelocityModel, runtime: String, precision: String, version: String, profile: Profile? = nil,
        departures: [String: Double] = [:], clock: @escaping SecondsClock = monotonicSeconds
    ) {
        (self.model, self.profile, self.departures, self.clock) = (model, profile, departures, clock)
        names = (runtime, precision, version)
    }

    /// The planner for the next run. The first call computes some passes, in a tenth of the deadline where it has one.
    ///
    /// - Throws: what the model throws; `ElitEdgeError.request` where the profile is not of this model.
    public func ready(deadlineMs: Double?) async throws -> Planner {
        if let planner { return planner }
        var ratio: Double?
        let found: Profile
        if let profile {
            found = profile
            let spareMs = deadlineMs.map { $0 * Self.checkingShare } ?? .infinity
            let costs = try Planner(manifest: model.manifest, profiles: [found]).candidates[0]
            ratio = try await costs.spotCheck(model, spareMs: spareMs, clock: clock)
        } else {
            let seconds = deadlineMs.map { $0 / 1e3 * Self.measuringShare } ?? .infinity
            found = try await Profile.measure(
                model, runtime: names.runtime, precision: names.precision, version: names.version,
                seconds: min(seconds, Profile.measuringSeconds), clock: clock)
        }
        let made = try Planner(
            manifest: model.manifest, profiles: [found], departures: departures, slowdown: ratio ?? 1)
        (profile, planner) = (found, made)
        return made
    }

    /// Take over what a run has taught its planner.
    public func learn(from run: DeadlineRun) {
        planner = run.planner
    }
}
