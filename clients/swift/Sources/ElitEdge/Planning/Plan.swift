/// One way to make the pictures.
public struct Plan: Sendable, Equatable {
    public let runtime: String
    public let precision: String
    public let solver: Solver
    public let guidance: GuidanceKind
    public let weakLatents: Int
    /// The budget of each step.
    public let latents: [Int]
    /// Expected distance to the reference plan's pictures.
    public let distance: Double
    /// Expected time, without a margin.
    public let expectedMs: Double
    /// Share of the expected time held back for the confidence.
    public let margin: Double
    public let memoryBytes: Int?
    public let joules: Double?
    /// The time that the plan has to fit: of the deadline, or of the energy.
    public let boundMs: Double?

    public var steps: Int { latents.count }

    /// The least deadline that it keeps at its confidence.
    public var neededMs: Double { expectedMs * (1 + margin) }

    /// The least energy bound that it keeps at its confidence.
    public var neededJoules: Double? { joules.map { $0 * (1 + margin) } }
}

extension Plan: CustomStringConvertible {
    /// One line for a person.
    public var description: String {
        let (low, high) = (latents.min() ?? 0, latents.max() ?? 0)
        let span = low == high ? "\(low)" : "\(low) to \(high)"
        let weak = guidance == .ccfg || guidance == .autoguidance ? " weak \(weakLatents)" : ""
        return "\(runtime) \(precision), \(steps) steps at \(span) latents, \(guidance.rawValue)\(weak): "
            + "\(fixed(expectedMs, digits: 0)) ms expected, distance \(fixed(distance, digits: 3))"
    }
}
