/// One run on its way from noise to pictures.
struct Run<Model: VelocityModel> {
    let grid: [Double]
    private(set) var taken: [Move] = []

    private let model: Model
    private let labels: [Int]
    private let settings: GenerationSettings
    private let guidance: Guidance
    private let begun: ContinuousClock.Instant
    private var noise: NoiseStream
    private var field: GuidedField<Model>
    private var trajectory: Trajectory
    private var samples: [Double] = []
    private var stepMs: [Double] = []

    /// A sample whose values spread less than this (in units of its noise) is a constant, not a picture.
    private static var flatDeviation: Double { 1e-3 }

    init(
        _ model: Model, _ labels: [Int], _ settings: GenerationSettings, solver: Solver, steps: Int, guidance: Guidance,
        begun: ContinuousClock.Instant
    ) throws {
        let config = model.manifest.model
        guard !labels.isEmpty else { throw ElitEdgeError.request("no labels; give one for each picture") }
        for label in labels where !(0..<config.numClasses).contains(label) {
            throw ElitEdgeError.request("unknown label \(label); give a number from 0 to \(config.numClasses - 1)")
        }
        (self.model, self.labels, self.settings) = (model, labels, settings)
        (self.guidance, self.begun) = (guidance, begun)
        grid = try solver.times(steps: steps)
        noise = NoiseStream(seed: settings.seed, pictures: labels.count)
        let start = try settings.start(pictures: labels.count, size: config.sampleSize, from: &noise)
        field = GuidedField(model, labels: labels, grid: grid, guidance: guidance)
        trajectory = Trajectory(solver: solver, grid: grid, x: start)
    }

    /// Computes the conditions of the first window.
    mutating func lookAhead() async throws {
        try await field.lookAhead(from: 0)
    }

    /// Takes the steps that `pace` asks for.
    mutating func follow(
        _ pace: inout some Pace, _ progress: (@Sendable (GenerationProgress) async -> Void)?
    ) async throws {
        try await lookAhead()
        while !trajectory.isFinished {
            guard !Task.isCancelled else {
                throw ElitEdgeError.cancelled("cancelled after \(taken.count) of \(grid.count - 1) steps")
            }
            guard let move = pace.next() else { break }
            if let coming = pace.latents(after: move), coming != move.latents {
                let passes = guidance.kind == .cfg ? 2 : 1
                await model.prepare(latents: coming, samples: passes * labels.count)
            }
            let (started, conditionedMs) = (ContinuousClock.now, field.conditionMs)
            let step = try await trajectory.advance(move, in: &field, noise: &noise)
            stepMs.append(started.elapsedMs - (field.conditionMs - conditionedMs))
            taken.append(move)
            samples = trajectory.isFinished ? step.x : step.x0  // a run that ends here ends on its prediction
            await progress?(told(step, left: pace.stepsLeft))
            pace.observe(elapsedMs: started.elapsedMs)
        }
    }

    private func told(_ step: Step, left: Int) -> GenerationProgress {
        let done = taken.count
        let shows = settings.previewEvery > 0 && done % settings.previewEvery == 0
        return GenerationProgress(
            step: done, steps: done + left, latents: step.move.latents, elapsedMs: begun.elapsedMs,
            preview: shows ? Picture.pictures(of: step.x0, model.manifest) : nil)
    }

    /// What the run made.
    ///
    /// - Parameter deadline: asked for when the pictures are ready.
    func finished(deadline: @autoclosure () -> DeadlineReport?) throws -> Generation {
        try checkPictures()
        let pictures = Picture.pictures(of: samples, model.manifest)
        let drew = settings.noise == nil || trajectory.solver == .eulerMaruyama
        return Generation(
            samples: samples, pictures: pictures, labels: labels, latents: taken.map(\.latents),
            solver: trajectory.solver, guidance: guidance, seed: drew ? settings.seed : nil, stepMs: stepMs,
            conditionMs: field.conditionMs, deadline: deadline())
    }

    private func checkPictures() throws {
        let size = samples.count / labels.count
        for picture in labels.indices {
            let values = samples[picture * size..<(picture + 1) * size]
            let mean = values.reduce(0, +) / Double(size)
            let spread = (values.reduce(0) { $0 + ($1 - mean) * ($1 - mean) } / Double(size)).squareRoot()
            guard spread >= Self.flatDeviation else {
                throw ElitEdgeError.picture(
                    "picture \(picture) came out flat (spread \(spread)) after \(taken.count) steps, the last at "
                        + "\(taken.last?.latents ?? 0) latents a group; verify the bundle: elit-edge verify BUNDLE")
            }
        }
    }
}
