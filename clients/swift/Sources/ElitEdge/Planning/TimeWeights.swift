/// How much a small budget costs at each time of a run, from a table's bands; of mean 1.
struct TimeWeights: Sendable {
    /// No part of a run is free, whatever the noise of a band's measurement says.
    private static let least = 0.05
    private static let leastRise = 1e-12

    /// Ascending, from 0 to 1.
    private let edges: [Double]
    /// The weight of all times up to each edge.
    private let until: [Double]

    /// - Parameter squared: Q of the reference's budget and of the band's, for an even plan of the band's steps.
    init(_ bands: [QualityTable.Band], squared: (QualityTable.Band) -> (full: Double, small: Double)) {
        let edges = Set(bands.flatMap { [$0.start, $0.end] } + [0, 1]).sorted()
        let lengths = differences(edges)
        var rises = lengths.map { _ in 0.0 }
        for band in bands {
            let (full, small) = squared(band)
            let rise = max(band.distance * band.distance - full, 0) / max(small - full, Self.leastRise)
            for index in rises.indices where band.end <= edges[index] && edges[index + 1] <= band.start {
                rises[index] += rise / (band.start - band.end)
            }
        }
        let mean = pairwiseSum(zip(rises, lengths).map { $0 * $1 })
        var weights = lengths.map { _ in 1.0 }
        if !bands.isEmpty {
            if mean > 0 { weights = rises.map { max($0 / mean, Self.least) } }
            let whole = pairwiseSum(zip(weights, lengths).map { $0 * $1 })
            weights = weights.map { $0 / whole }
        }
        self.edges = edges
        until = [0] + runningSums(zip(weights, lengths).map { $0 * $1 })
    }

    /// The mean weight of each step: [steps] of falling times [steps + 1].
    func weights(_ grid: [Double]) -> [Double] {
        let rises = differences(grid.map { interpolate($0, edges, until) })
        return zip(rises, differences(grid)).map { $0 / $1 }
    }
}
