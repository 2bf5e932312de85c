/// The guided velocity of one run: the modulations of its (time, label) pairs are computed ahead, in one call.
struct GuidedField<Model: VelocityModel>: Field {
    private let model: Model
    private let grid: [Double]
    private let guidance: Guidance
    /// Each class of the run once, ascending.
    private let classes: [Int]
    /// The class of each sample, as an index into `classes`.
    private let rows: [Int]
    /// The class of each sample's weak pass.
    private let weakRows: [Int]
    /// Times that one call computes.
    private let ahead: Int
    private var first = 0
    /// [times from `first`, classes, M].
    private var modulations: [Float] = []
    private(set) var conditionMs = 0.0

    /// Modulations of so many bytes are computed ahead at a time: all steps of a small model, some of a large one.
    private static var conditionBytes: Int { 64 << 20 }

    init(_ model: Model, labels: [Int], grid: [Double], guidance: Guidance) {
        let null = model.manifest.model.nullLabel
        let usesNull = guidance.kind == .cfg || guidance.kind == .ccfg
        let classes = Set(usesNull ? labels + [null] : labels).sorted()
        let weak = usesNull ? labels.map { _ in null } : labels
        (self.model, self.grid, self.guidance, self.classes) = (model, grid, guidance, classes)
        rows = labels.compactMap(classes.firstIndex(of:))
        weakRows = weak.compactMap(classes.firstIndex(of:))
        ahead = max(1, Self.conditionBytes / (4 * model.manifest.model.modulationSize * classes.count))
    }

    mutating func velocity(_ x: [Double], at index: Int, for move: Move) async throws -> [Float] {
        let sample = x.map { Float($0) }
        try await lookAhead(from: index)
        let conditions = modulations(of: rows, at: index)
        guard guidance.isActive(at: grid[index]) else {
            return try await model.velocity(x: sample, modulations: conditions, latents: move.latents)
        }
        let weakConditions = modulations(of: weakRows, at: index)
        if guidance.kind == .cfg {
            let both = try await model.velocity(
                x: sample + sample, modulations: conditions + weakConditions, latents: move.latents)
            return guidance.mix(strong: both.prefix(sample.count), weak: both.dropFirst(sample.count))
        }
        let strong = try await model.velocity(x: sample, modulations: conditions, latents: move.latents)
        let weak = try await model.velocity(x: sample, modulations: weakConditions, latents: move.weakLatents)
        return guidance.mix(strong: strong, weak: weak)
    }

    /// Has the modulations of all classes at this time, and of as many times after it as the window holds.
    mutating func lookAhead(from index: Int) async throws {
        let width = classes.count * model.manifest.model.modulationSize
        guard index < first || index >= first + modulations.count / width else { return }
        let begun = ContinuousClock.now
        // no solver asks for the velocity at the last time
        let window = grid[index..<min(index + ahead, grid.count - 1)]
        let times = window.flatMap { t in classes.map { _ in Float(t) } }
        let labels = window.flatMap { _ in classes }
        (first, modulations) = (index, try await model.condition(times: times, labels: labels))
        conditionMs += begun.elapsedMs
    }

    private func modulations(of rows: [Int], at index: Int) -> [Float] {
        let width = model.manifest.model.modulationSize
        return rows.flatMap { row in
            let begin = ((index - first) * classes.count + row) * width
            return modulations[begin..<begin + width]
        }
    }
}

extension ContinuousClock.Instant {
    /// Milliseconds from then until now.
    var elapsedMs: Double { (ContinuousClock.now - self) / .milliseconds(1) }
}
