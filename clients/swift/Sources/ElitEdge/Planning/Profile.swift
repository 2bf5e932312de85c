/// What one runtime at one precision was measured to cost on this device; in JSON, names are snake_case.
public struct Profile: Codable, Sendable, Equatable {
    /// Measured passes at one budget and batch.
    public struct Point: Codable, Sendable, Equatable {
        public let latents: Int
        public let batch: Int
        /// The first pass of this shape, which may load or compile it.
        public let firstMs: Double
        public let medianMs: Double
        public let p90Ms: Double
        public let n: Int
    }

    /// Measured: the modulations of so many (time, label) pairs in one call.
    public struct Conditions: Codable, Sendable, Equatable {
        public let rows: Int
        public let medianMs: Double
    }

    /// The most that a process of this runtime held while it computed batches up to this one.
    public struct Memory: Codable, Sendable, Equatable {
        public let batch: Int
        public let peakBytes: Int
    }

    public let runtime: String
    public let precision: String
    /// Of the runtime's library.
    public let version: String
    public let threads: Int?
    public let openMs: Double
    public let points: [Point]
    public let conditions: [Conditions]
    /// The solver's own arithmetic a step and sample.
    public let solverMs: Double
    /// What a pass takes longer after a pause.
    public let wakingMs: Double
    /// How far whole rounds of measuring lay apart: standard deviation over mean.
    public let drift: Double
    /// Empty where the platform does not tell.
    public let memory: [Memory]
    /// Mean power while computing; nil without a sensor.
    public let watts: Double?

    /// - Throws: `ElitEdgeError.request` where nothing can be predicted from it.
    func check(_ flops: [Int: Int]) throws {
        let times = points.map(\.medianMs) + conditions.map(\.medianMs)
        let around = [solverMs, wakingMs, drift]
        guard !points.isEmpty, !conditions.isEmpty, points.allSatisfy({ $0.batch > 0 && $0.medianMs > 0 }),
            conditions.allSatisfy({ $0.rows > 0 }), (times + around).allSatisfy({ $0 >= 0 && $0 < .infinity })
        else {
            throw ElitEdgeError.request(
                "the profile of \(runtime) \(precision) has no points, or times that are none; measure it again")
        }
        if let unknown = points.first(where: { (flops[$0.latents] ?? 0) <= 0 }) {
            throw ElitEdgeError.request(
                "the profile of \(runtime) \(precision) has passes of \(unknown.latents) latents, which the bundle "
                    + "does not; measure it on this bundle")
        }
    }
}
