import Foundation

/// The loss of any plan, read from a table.
///
/// Squared distances add up over a run. A step of length dt at time t at J latents loses
/// dt · (Q(n, P) + w(t) · (Q(n, J) - Q(n, P))) with n = 1 / dt, where Q(n, J) is the squared distance of the plan of n
/// steps at J latents, and w(t), of mean 1, says how much a small budget costs at that time (from the table's bands; 1
/// where it has none). For an even plan that is the table's own cell.
public struct Loss: Sendable {
    public let table: QualityTable
    /// In the order of the table.
    public let variants: [Variant]
    /// The fewest steps that a plan can be judged at, and the most: a power law leads below what was measured.
    public let stepCounts: ClosedRange<Int>

    private let grids: [Variant: LossGrid]
    private let times: TimeWeights
    private let full: Int

    /// - Throws: `ElitEdgeError.bundle` where the table's values are out of range.
    public init(_ table: QualityTable) throws {
        try table.check()
        self.table = table
        let floor = (table.cells.map(\.distance).filter { $0 > 0 }.min() ?? 1) / 2
        let byVariant = Dictionary(grouping: table.cells, by: \.variant)
        let grids = byVariant.mapValues { LossGrid($0, floor: floor) }
        var seen: Set<Variant> = []
        variants = table.cells.map(\.variant).filter { seen.insert($0).inserted }
        let counts = Set(table.cells.map(\.steps)).sorted()
        stepCounts = (counts.count > 1 ? 1 : counts[0])...counts[counts.count - 1]
        full = table.cells.map(\.latents).max() ?? 1
        self.grids = grids
        let reference = table.reference
        guard table.bands.isEmpty || grids[reference.variant] != nil else {
            throw ElitEdgeError.bundle(
                "the quality table has bands and no cells of its reference's guidance, \(reference.guidance.rawValue) "
                    + "weak \(reference.weakLatents); write it again: elit-edge evaluate BUNDLE")
        }
        times = TimeWeights(table.bands) { band in
            let found = Self.squared(grids[reference.variant]!, Double(band.steps), [reference.latents, band.latents])
            return (found[0], found[1])
        }
    }

    /// The least and the most latents that were measured; beyond them nothing is known.
    func measuredLatents(_ variant: Variant) -> ClosedRange<Int> {
        let latents = grid(variant).latents
        return Int(latents[0])...Int(latents[latents.count - 1])
    }

    /// Q of each budget at a density of steps (steps a unit of time: n for an even plan of n steps).
    func squared(_ variant: Variant, density: Double, latents: [Int]) -> [Double] {
        Self.squared(grid(variant), density, latents)
    }

    /// How much a small budget costs in each step, against the mean of a run: [steps] of times [steps + 1].
    func weights(_ grid: [Double]) -> [Double] {
        times.weights(grid)
    }

    /// The distance that the pictures of a run are expected to have.
    ///
    /// - Parameters:
    ///   - grid: times from 1 down to 0, [steps + 1].
    ///   - steps: the variant and budget of each step, [steps]; the variants are of `variants`.
    func distance(grid: [Double], steps: [(Variant, Int)]) -> Double {
        let lengths = zip(grid, grid.dropFirst()).map { $0 - $1 }
        let weights = weights(grid)
        let densities = densities(grid, lengths)
        var total = 0.0
        for (index, (variant, budget)) in steps.enumerated() {
            let found = squared(variant, density: densities[index], latents: [full, budget])
            total += lengths[index] * (found[0] + weights[index] * (found[1] - found[0]))
        }
        return max(total, 0).squareRoot()
    }

    /// The number of steps of the even plan that each step would belong to.
    private func densities(_ grid: [Double], _ lengths: [Double]) -> [Double] {
        guard table.solver == .eulerMaruyama else { return lengths.map { 1 / $0 } }
        // its last step is short whatever their number, and the others share the rest
        return zip(grid, lengths).map { time, length in
            time > Solver.stochasticEnd ? 1 + (1 - Solver.stochasticEnd) / length : Double(lengths.count)
        }
    }

    private func grid(_ variant: Variant) -> LossGrid {
        guard let grid = grids[variant] else { preconditionFailure("\(variant) is not of the table") }
        return grid
    }

    private static func squared(_ grid: LossGrid, _ density: Double, _ latents: [Int]) -> [Double] {
        let row = grid.row(density: density)
        return latents.map { exp(interpolate(Double($0), grid.latents, row)) }
    }
}
