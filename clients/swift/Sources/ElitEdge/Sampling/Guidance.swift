/// Which weak pass stands beside the strong one.
public enum GuidanceKind: String, Codable, CaseIterable, Sendable {
    case none
    /// The null class at the same budget.
    case cfg
    /// The null class at a small budget: cheap.
    case ccfg
    /// The same label at a small budget.
    case autoguidance
}

/// v = v_weak + scale · (v_cond - v_weak) inside low <= t <= high, else v_cond.
///
/// Source: arXiv 2603.12245 (ELIT: guidance by budget).
public struct Guidance: Equatable, Sendable {
    public let kind: GuidanceKind
    public let scale: Double
    /// Of ccfg and autoguidance.
    public let weakLatents: Int
    /// Times between which guidance acts; 1 is noise, 0 the picture.
    public let interval: ClosedRange<Double>

    /// Times that differ in the last bits still count as the end of the interval.
    private static let tolerance = 1e-6

    /// - Throws: `ElitEdgeError.request`: a scale below 0, or an interval that leaves 0..1.
    public init(
        _ kind: GuidanceKind, scale: Double = 1, weakLatents: Int = 1, interval: ClosedRange<Double> = 0...1
    ) throws {
        guard scale.isFinite, scale >= 0 else {
            throw ElitEdgeError.request("guidance scale \(scale): must be a number of at least 0; 1 is no guidance")
        }
        guard interval.lowerBound >= 0, interval.upperBound <= 1 else {
            throw ElitEdgeError.request("guidance interval \(interval): must lie in 0..1")
        }
        (self.kind, self.scale, self.weakLatents, self.interval) = (kind, scale, weakLatents, interval)
    }

    /// Whether a pass at time t needs a weak one beside it.
    public func isActive(at t: Double) -> Bool {
        let inside = interval.lowerBound - Self.tolerance <= t && t <= interval.upperBound + Self.tolerance
        return kind != .none && scale > 1 && inside
    }

    /// The guided velocity.
    func mix(strong: some Sequence<Float>, weak: some Sequence<Float>) -> [Float] {
        let scale = Float(scale)
        return zip(strong, weak).map { $1 + scale * ($0 - $1) }
    }
}
