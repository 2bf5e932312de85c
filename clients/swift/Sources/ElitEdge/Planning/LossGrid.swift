import Foundation

/// The measured plans of one guidance: the squared distance at every number of steps and latents, as logarithms.
struct LossGrid: Sendable {
    let latents: [Double]
    private let logSteps: [Double]
    /// [steps][latents].
    private let logs: [[Double]]

    /// - Parameters:
    ///   - cells: of one guidance, at least one.
    ///   - floor: the least distance: a plan that is the reference itself has none, and no logarithm.
    init(_ cells: [QualityTable.Cell], floor: Double) {
        let known = Known(cells, floor: floor)
        let steps = Set(cells.map(\.steps)).sorted()
        let budgets = Set(cells.map(\.latents)).sorted()
        logs = steps.map { count in budgets.map { known.log(count, $0) } }
        logSteps = steps.map { log(Double($0)) }
        latents = budgets.map(Double.init)
    }

    /// The logarithms at a density of steps: a power law between neighbours and below the first row, constant above
    /// the last.
    func row(density: Double) -> [Double] {
        guard logSteps.count > 1, let last = logSteps.last else { return logs[0] }
        let wanted = min(log(density), last)
        let after = min(max(logSteps.firstIndex { $0 >= wanted } ?? logSteps.count, 1), logSteps.count - 1)
        let share = (wanted - logSteps[after - 1]) / (logSteps[after] - logSteps[after - 1])
        return zip(logs[after - 1], logs[after]).map { $0 + share * ($1 - $0) }
    }
}

/// The cells, and what stands in where one was not measured.
private struct Known {
    private struct Plan: Hashable {
        let steps: Int
        let latents: Int
    }

    private var plans: [Plan] = []
    private var logs: [Plan: Double] = [:]

    init(_ cells: [QualityTable.Cell], floor: Double) {
        for cell in cells {
            let plan = Plan(steps: cell.steps, latents: cell.latents)
            if logs[plan] == nil { plans.append(plan) }
            logs[plan] = 2 * Foundation.log(max(cell.distance, floor))
        }
    }

    /// A cell; where it was not measured, as far from its row's nearest cell as in the nearest row that has both.
    func log(_ steps: Int, _ latents: Int) -> Double {
        if let own = logs[Plan(steps: steps, latents: latents)] { return own }
        let here = plans.filter { $0.steps == steps }.map(\.latents)
            .stablySorted { abs($0 - latents) < abs($1 - latents) }
        func octaves(_ row: Int) -> Double { abs(Foundation.log(Double(row) / Double(steps))) }
        let rows = plans.filter { $0.latents == latents }.map(\.steps).stablySorted { octaves($0) < octaves($1) }
        func at(_ row: Int, _ budget: Int) -> Double? { logs[Plan(steps: row, latents: budget)] }
        for row in rows {
            for each in here {
                if let there = at(row, each), let wanted = at(row, latents), let own = at(steps, each) {
                    return own + wanted - there
                }
            }
        }
        return at(steps, here[0])!  // the row has a cell, or it would not be one
    }
}
