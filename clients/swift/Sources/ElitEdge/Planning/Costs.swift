/// Predictions from a profile: linear in FLOPs between measured budgets, and in the batch.
public struct Costs: Sendable {
    public let profile: Profile
    private let flops: [Int: Int]
    private let batches: [Int]
    /// FLOPs and milliseconds of the measured budgets of each batch, ascending.
    private let curves: [Int: (flops: [Double], ms: [Double])]

    /// - Parameter flops: of one pass for one sample at each budget of the bundle.
    /// - Throws: `ElitEdgeError.request` where nothing can be predicted from the profile.
    public init(_ profile: Profile, flops: [Int: Int]) throws {
        try profile.check(flops)
        self.profile = profile
        self.flops = flops
        curves = Dictionary(grouping: profile.points, by: \.batch).mapValues { points in
            let rows = points.map { (Double(flops[$0.latents]!), $0.medianMs) }.sorted { $0 < $1 }
            return (rows.map(\.0), rows.map(\.1))
        }
        batches = curves.keys.sorted()
    }

    /// One pass of the model for `batch` samples.
    public func passMs(latents: Int, batch: Int) -> Double {
        guard batches.count > 1 else {
            return ofBatchMs(latents, batches[0]) * Double(batch) / Double(batches[0])
        }
        let above = max(batches.firstIndex { $0 >= batch } ?? batches.count - 1, 1)
        let (low, high) = (batches[above - 1], batches[above])
        let atLow = ofBatchMs(latents, low)
        var atHigh = ofBatchMs(latents, high)
        if batch > high { atHigh = max(atHigh, atLow) }  // noise may say that more is faster; it does not go on so
        let floor = batch < low ? atLow * min(1, Double(batch) / Double(low)) : 0
        return max(floor, atLow + Double(batch - low) * (atHigh - atLow) / Double(high - low))
    }

    /// A measured batch. Of the larger ones few budgets are measured: beyond those it goes as the smallest does.
    private func ofBatchMs(_ latents: Int, _ batch: Int) -> Double {
        guard let work = flops[latents], let known = curves[batch], let smallest = curves[batches[0]] else {
            preconditionFailure("\(latents) latents are no budget of the bundle")
        }
        let own = Double(work)
        let nearest = min(max(own, known.flops[0]), known.flops[known.flops.count - 1])
        let ms = interpolate(nearest, known.flops, known.ms)
        if nearest == own || batch == batches[0] { return ms }
        return ms * interpolate(own, smallest.flops, smallest.ms) / interpolate(nearest, smallest.flops, smallest.ms)
    }

    /// One solver step of one evaluation: its passes, and the arithmetic around them.
    func stepMs(latents: Int, batch: Int, _ variant: Variant) -> Double {
        let own = profile.solverMs * Double(batch)
        switch variant.guidance {
        case .none: return passMs(latents: latents, batch: batch) + own
        case .cfg: return passMs(latents: latents, batch: 2 * batch) + own
        case .ccfg, .autoguidance:
            return passMs(latents: latents, batch: batch) + passMs(latents: variant.weakLatents, batch: batch) + own
        }
    }

    /// The modulations of so many (time, label) pairs.
    func conditionMs(rows: Int) -> Double {
        let known = profile.conditions.map { ($0.rows, $0.medianMs) }.sorted { $0 < $1 }
        let ((low, atLow), (high, atHigh)) = (known[0], known[known.count - 1])
        guard known.count > 1, high > low else { return atLow * max(1, Double(rows) / Double(low)) }
        return max(atLow, atLow + Double(rows - low) * (atHigh - atLow) / Double(high - low))
    }

    /// Peak memory of the process at a batch; nil where it was not measured.
    func memoryBytes(batch: Int) -> Int? {
        let known = profile.memory.map { ($0.batch, $0.peakBytes) }.sorted { $0 < $1 }
        guard let (low, atLow) = known.first, let (high, atHigh) = known.last else { return nil }
        let slope = high > low ? Double(atHigh - atLow) / Double(high - low) : 0
        return Int(Double(atLow) + Double(max(0, batch - low)) * max(slope, 0))
    }

    /// Energy of computing for so long; nil without a sensor.
    func joules(ms: Double) -> Double? {
        profile.watts.map { $0 * ms / 1e3 }
    }
}
