// What a run needs of its planner.
extension Planner {
    /// The costs of the plan's runtime.
    func costs(of plan: Plan) throws -> Costs {
        let own = candidates.first { ($0.profile.runtime, $0.profile.precision) == (plan.runtime, plan.precision) }
        guard let own else {
            throw ElitEdgeError.request(
                "no costs of \(plan.runtime) \(plan.precision) to go on with this plan; measure that runtime, or plan "
                    + "for one of: \(candidates.map { "\($0.profile.runtime) \($0.profile.precision)" })")
        }
        return own
    }

    /// - Throws: `ElitEdgeError.request` where the plan is of another runtime, table or bundle.
    func check(_ plan: Plan) throws {
        _ = try costs(of: plan)
        let known = budgets[Variant(plan.guidance, plan.weakLatents)] ?? []
        guard plan.solver == loss.table.solver, !plan.latents.isEmpty, plan.latents.allSatisfy(known.contains) else {
            throw ElitEdgeError.request("\(plan): not a plan of this planner's quality table; plan again")
        }
    }

    /// All ways to go on with a plan over the times that are left.
    func rest(_ costs: Costs, _ variant: Variant, grid: [Double], batch: Int) -> Curve {
        Curve(
            loss: loss, variant: variant, budgets: budgets[variant] ?? [], stepMs: stepsMs(costs, variant, batch),
            grid: grid)
    }

    /// The cheapest step of a runtime and guidance.
    func leastMs(_ costs: Costs, _ variant: Variant, batch: Int) -> Double {
        stepsMs(costs, variant, batch).min() ?? 0
    }

    /// The weak budgets that a plan's guidance may fall back to, its own first, then less and less.
    func weaker(_ plan: Plan) -> [Int] {
        let own = loss.variants.filter { $0.guidance == plan.guidance && $0.weakLatents < plan.weakLatents }
        return [plan.weakLatents] + own.map(\.weakLatents).sorted(by: >)
    }

    /// What is left to do after the last step.
    func finishMs(_ costs: Costs, batch: Int) -> Double {
        Self.finishes * costs.profile.solverMs * Double(batch)
    }

    /// A step of one evaluation at each budget.
    private func stepsMs(_ costs: Costs, _ variant: Variant, _ batch: Int) -> [Double] {
        (budgets[variant] ?? []).map { costs.stepMs(latents: $0, batch: batch, variant) }
    }
}
