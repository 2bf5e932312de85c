private let publishedSteps = [10, 20, 40]

/// FID10K by share of the latents and steps, of ELIT on ImageNet at 256 px. Source: arXiv 2603.12245, figure 8, read
/// off the plot.
private let publishedFid: [(share: Double, fid: [Double])] = [
    (1.0, [28.8, 16.3, 12.15]),
    (0.75, [29.4, 16.6, 12.5]),
    (0.5, [30.0, 17.1, 12.95]),
    (0.25, [32.1, 18.7, 14.2]),
    (0.125, [35.8, 21.6, 16.8]),
]

extension QualityTable {
    /// What stands in for a bundle's own table until it is measured: the paper's figures, as squared distances.
    ///
    /// They order plans by the paper's model; as distances of this bundle's pictures they mean nothing.
    public static func published(
        latentsPerGroup: Int, guidance: GuidanceKind, weakLatents: Int, scale: Double
    ) -> QualityTable {
        func cell(_ steps: Int, _ latents: Int, _ distance: Double) -> Cell {
            Cell(
                steps: steps, latents: latents, guidance: guidance, weakLatents: weakLatents, distance: distance,
                low: distance, high: distance, frechet: nil)
        }
        var cells: [Cell] = []
        for row in publishedFid {  // from the full budget down: where two shares are one budget, the larger
            let latents = max(1, Int((Double(latentsPerGroup) * row.share).rounded(.toNearestOrEven)))
            guard !cells.contains(where: { $0.latents == latents }) else { continue }
            cells += zip(publishedSteps, row.fid).map { cell($0, latents, $1.squareRoot()) }
        }
        return QualityTable(
            reference: cell(40, latentsPerGroup, 0), solver: .euler, scale: scale, pictures: 0, seed: 0,
            featuresSha256: nil, origin: .published, cells: cells, bands: [])
    }
}
