/// Distances to the reference plan's pictures, paired by noise: what a bundle's pictures lose at each plan.
/// `elit-edge evaluate` measures it; in JSON, names are snake_case.
public struct QualityTable: Codable, Sendable, Equatable {
    /// How far the pictures of one plan are from the reference's: the same budget at every step.
    public struct Cell: Codable, Sendable, Equatable {
        public let steps: Int
        public let latents: Int
        public let guidance: GuidanceKind
        public let weakLatents: Int
        /// Mean over pictures of |x - reference| / |reference|, each pair from the same noise.
        public let distance: Double
        /// 95% bootstrap interval of the mean.
        public let low: Double
        public let high: Double
        /// Frechet distance of the two sets in the feature space; nil where no feature network was given.
        public let frechet: Double?

        var variant: Variant { Variant(guidance, weakLatents) }
    }

    /// A small budget in a part of the run alone, the full one elsewhere: which times need their latents.
    public struct Band: Codable, Sendable, Equatable {
        public let steps: Int
        /// Kept while end < t <= start.
        public let latents: Int
        public let start: Double
        public let end: Double
        public let distance: Double
    }

    public enum Origin: String, Codable, Sendable {
        case measured, published
    }

    /// The reference plan; its distance to itself is 0.
    public let reference: Cell
    public let solver: Solver
    public let scale: Double
    public let pictures: Int
    public let seed: UInt64
    public let featuresSha256: String?
    public let origin: Origin
    /// At least one.
    public let cells: [Cell]
    public let bands: [Band]
}

extension QualityTable {
    public init(from decoder: any Decoder) throws {
        let values = try decoder.container(keyedBy: CodingKeys.self)
        self.init(
            reference: try values.decode(Cell.self, forKey: .reference),
            solver: try values.decode(Solver.self, forKey: .solver),
            scale: try values.decode(Double.self, forKey: .scale),
            pictures: try values.decode(Int.self, forKey: .pictures),
            seed: try values.decode(UInt64.self, forKey: .seed),
            featuresSha256: try values.decodeIfPresent(String.self, forKey: .featuresSha256),
            origin: try values.decodeIfPresent(Origin.self, forKey: .origin) ?? .measured,
            cells: try values.decode([Cell].self, forKey: .cells),
            bands: try values.decodeIfPresent([Band].self, forKey: .bands) ?? [])
    }

    /// - Throws: `ElitEdgeError.bundle` where a value is outside of what the format allows.
    func check() throws {
        let all = cells + [reference]
        let counts = all.flatMap { [$0.steps, $0.latents, $0.weakLatents] } + bands.flatMap { [$0.steps, $0.latents] }
        let distances = all.map(\.distance) + bands.map(\.distance)
        guard !cells.isEmpty, counts.allSatisfy((1...65536).contains),  // more is damage
            distances.allSatisfy({ $0 >= 0 && $0 < .infinity }),
            bands.allSatisfy({ 0 <= $0.end && $0.end < $0.start && $0.start <= 1 })
        else {
            throw ElitEdgeError.bundle(
                "the quality table has no cells, or values out of range; write it again: elit-edge evaluate BUNDLE")
        }
    }
}

/// Guidance and the budget of its weak pass.
public struct Variant: Hashable, Sendable {
    public let guidance: GuidanceKind
    public let weakLatents: Int

    public init(_ guidance: GuidanceKind, _ weakLatents: Int) {
        self.guidance = guidance
        self.weakLatents = weakLatents
    }
}
