/// What runs a bundle's graphs: Core ML in an app, plain arithmetic in tests.
///
/// Shapes: B samples, C channels, S side, M `manifest.model.modulationSize`; all arrays are flat, row after row.
public protocol VelocityModel: Sendable {
    var manifest: Manifest { get }

    /// The modulations of (time, label) pairs.
    ///
    /// - Parameters:
    ///   - times: [K], in 0...1.
    ///   - labels: [K], classes or the null label.
    /// - Returns: [K, M].
    func condition(times: [Float], labels: [Int]) async throws -> [Float]

    /// dx/dt at x [B, C, S, S] under modulations [B, M] of `condition`, with 1..P latents kept a group.
    ///
    /// - Returns: [B, C, S, S].
    func velocity(x: [Float], modulations: [Float], latents: Int) async throws -> [Float]

    /// A hint that a budget is asked for soon, for so many samples at once; returns without waiting for what it begins.
    func prepare(latents: Int, samples: Int) async
}

extension VelocityModel {
    public func prepare(latents: Int, samples: Int) async {}
}
