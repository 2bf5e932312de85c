/// How pictures are made. What is nil comes from the bundle's sampler defaults.
public struct GenerationSettings: Sendable {
    /// At least 1; follows from `latents` where that is a list.
    public var steps: Int?
    public var latents: Latents?
    public var solver: Solver?
    public var guidance: GuidanceKind?
    /// 1 or less is no guidance.
    public var scale: Double?
    /// Budget of the weak pass of ccfg and autoguidance.
    public var weakLatents: Int?
    /// Times between which guidance acts; 1 is noise, 0 the picture.
    public var interval: ClosedRange<Double>
    /// The start [B, C, S, S] instead of one drawn from the seed.
    public var noise: [Double]?
    /// The same seed gives the same noise everywhere, for a picture alone or in a batch.
    public var seed: UInt64
    /// Steps between previews; 0 for none.
    public var previewEvery: Int

    /// Latents kept a group: one number for the whole run, or one for each step.
    public enum Latents: Equatable, Sendable {
        case even(Int)
        case each([Int])
    }

    public init(
        steps: Int? = nil, latents: Latents? = nil, solver: Solver? = nil, guidance: GuidanceKind? = nil,
        scale: Double? = nil, weakLatents: Int? = nil, interval: ClosedRange<Double> = 0...1, noise: [Double]? = nil,
        seed: UInt64 = 0, previewEvery: Int = 0
    ) {
        (self.steps, self.latents, self.solver, self.guidance) = (steps, latents, solver, guidance)
        (self.scale, self.weakLatents, self.interval) = (scale, weakLatents, interval)
        (self.noise, self.seed, self.previewEvery) = (noise, seed, previewEvery)
    }

    /// The budget of each step.
    func budgets(_ manifest: Manifest) throws -> [Int] {
        let budgets: [Int]
        switch latents {
        case .each(let list):
            guard steps == nil || steps == list.count else {
                throw ElitEdgeError.request(
                    "\(list.count) budgets for \(steps ?? 0) steps; give one for each step, or one number for all")
            }
            budgets = list
        case .even(let one):
            budgets = try Array(repeating: one, count: count(manifest))
        case nil:
            budgets = try Array(repeating: manifest.latentsPerGroup, count: count(manifest))
        }
        guard !budgets.isEmpty else { throw ElitEdgeError.request("no budgets: at least one step is needed") }
        for budget in budgets { try manifest.checkLatents(budget) }
        return budgets
    }

    private func count(_ manifest: Manifest) throws -> Int {
        let count = steps ?? manifest.sampler.steps
        guard count >= 1 else { throw ElitEdgeError.request("steps = \(count): at least one step is needed") }
        return count
    }

    func chosenGuidance(_ manifest: Manifest) throws -> Guidance {
        let defaults = manifest.sampler
        return try Guidance(
            guidance ?? defaults.guidance, scale: scale ?? defaults.scale,
            weakLatents: manifest.checkLatents(weakLatents ?? defaults.weakLatents), interval: interval)
    }

    /// The start of a run: what was given, or drawn.
    func start(pictures: Int, size: Int, from stream: inout NoiseStream) throws -> [Double] {
        guard let noise else { return stream.draw(size) }
        guard noise.count == pictures * size else {
            throw ElitEdgeError.request(
                "noise has \(noise.count) numbers; \(pictures) pictures need \(pictures * size)")
        }
        guard noise.allSatisfy(\.isFinite) else {
            throw ElitEdgeError.request("noise holds values that are not finite")
        }
        return noise
    }
}
