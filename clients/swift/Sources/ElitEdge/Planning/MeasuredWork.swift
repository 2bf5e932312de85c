import Foundation

/// A budget and a batch that are measured.
struct MeasuredShape: Hashable, Sendable {
    static let batches = [1, 2, 4, 8]

    let latents: Int
    let batch: Int

    /// The ends of the ladder first, alone and in pairs; then between them, halving; then larger batches.
    ///
    /// - Parameter budgets: ascending, at least one.
    static func byImportance(_ budgets: [Int]) -> [MeasuredShape] {
        let ladder = halving(budgets)
        func product(_ batches: some Sequence<Int>, _ latents: some Sequence<Int>) -> [MeasuredShape] {
            batches.flatMap { batch in latents.map { MeasuredShape(latents: $0, batch: batch) } }
        }
        var seen: Set<MeasuredShape> = []
        let all =
            product(batches.prefix(2), ladder.prefix(2)) + product(batches.prefix(2), ladder.prefix(5))
            + product(batches.dropFirst(2), ladder.prefix(3)) + product(batches.prefix(2), ladder)
        return all.filter { seen.insert($0).inserted }
    }

    /// Last, first, middle, middles of the halves, and so on.
    private static func halving(_ budgets: [Int]) -> [Int] {
        var order = [budgets.count - 1, 0]
        var spans = [(0, budgets.count - 1)]
        while !spans.isEmpty {
            let (low, high) = spans.removeFirst()
            let middle = (low + high) / 2
            order.append(middle)
            if high - low > 1 { spans += [(low, middle), (middle, high)] }
        }
        var seen: Set<Int> = []
        return order.filter { seen.insert($0).inserted }.map { budgets[$0] }
    }
}

/// Inputs of any batch, and the clock around what is done with them.
struct MeasuredWork<Model: VelocityModel>: Sendable {
    private let model: Model
    private let clock: SecondsClock
    /// Of the largest batch.
    private let x: [Float]
    private let modulations: [Float]

    private static var seed: UInt64 { 20_260_312 }

    init(_ model: Model, _ clock: @escaping SecondsClock) async throws {
        (self.model, self.clock) = (model, clock)
        let batch = MeasuredShape.batches.max() ?? 1
        var noise = NoiseStream(seed: Self.seed, pictures: batch)
        x = noise.draw(model.manifest.model.sampleSize).map { Float($0) }
        let rows = Self.rows(batch, model)
        modulations = try await model.condition(times: rows.times, labels: rows.labels)
    }

    /// One pass.
    func passMs(_ shape: MeasuredShape) async throws -> Double {
        let config = model.manifest.model
        let x = Array(x.prefix(shape.batch * config.sampleSize))
        let modulations = Array(modulations.prefix(shape.batch * config.modulationSize))
        let begun = clock()
        _ = try await model.velocity(x: x, modulations: modulations, latents: shape.latents)
        return (clock() - begun) * 1e3
    }

    /// The modulations of so many pairs.
    func conditionMs(_ count: Int) async throws -> Double {
        let rows = Self.rows(count, model)
        let begun = clock()
        _ = try await model.condition(times: rows.times, labels: rows.labels)
        return (clock() - begun) * 1e3
    }

    /// What a step does around a guided pass, for one sample.
    func solverMs() -> Double {
        let v = Array(x.prefix(model.manifest.model.sampleSize))
        let state = v.map(Double.init)
        let begun = clock()
        let sample = state.map { Float($0) }
        let guided = zip(sample, v).map { Double($0 + 2.5 * ($1 - $0)) }
        let predicted = zip(state, guided).map { $0 - 0.5 * $1 }
        let after = zip(state, guided).map { $0 - 0.04 * $1 }
        let isFinite = predicted.allSatisfy(\.isFinite) && after.allSatisfy(\.isFinite)
        let ms = (clock() - begun) * 1e3
        precondition(isFinite)
        return ms
    }

    private static func rows(_ count: Int, _ model: Model) -> (times: [Float], labels: [Int]) {
        let last = Float(max(count - 1, 1))
        return ((0..<count).map { Float($0) / last }, (0..<count).map { $0 % model.manifest.model.numClasses })
    }
}

/// The most resident memory that this process has held; nil where the platform does not tell.
func peakBytes() -> Int? {
    #if canImport(Darwin)
        var usage = rusage()
        return getrusage(RUSAGE_SELF, &usage) == 0 ? usage.ru_maxrss : nil
    #else
        // ru_maxrss of Linux begins with that of the parent
        guard let status = try? String(contentsOfFile: "/proc/self/status", encoding: .utf8),
            let line = status.split(separator: "\n").first(where: { $0.hasPrefix("VmHWM:") }),
            let kilobytes = line.split(whereSeparator: { !$0.isNumber }).first.flatMap({ Int($0) })
        else { return nil }
        return 1024 * kilobytes
    #endif
}
