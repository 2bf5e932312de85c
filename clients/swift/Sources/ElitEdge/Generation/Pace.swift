/// Who decides the steps of a run.
protocol Pace {
    /// The next step; nil: the run ends here.
    mutating func next() -> Move?
    /// How long the step took that `next` gave last.
    mutating func observe(elapsedMs: Double)
    /// Steps still to come, as planned now.
    var stepsLeft: Int { get }
    /// The budget that the step after this one has, as far as is known; for models that prepare a budget.
    func latents(after move: Move) -> Int?
}

/// The same grid whatever the clock says.
struct EvenPace: Pace {
    let budgets: [Int]
    let weakLatents: Int
    private var given = 0

    init(budgets: [Int], weakLatents: Int) {
        (self.budgets, self.weakLatents) = (budgets, weakLatents)
    }

    var stepsLeft: Int { budgets.count - given }

    mutating func next() -> Move? {
        guard given < budgets.count else { return nil }
        given += 1
        return Move(to: given, latents: budgets[given - 1], weakLatents: weakLatents)
    }

    mutating func observe(elapsedMs: Double) {}

    func latents(after move: Move) -> Int? {
        move.to < budgets.count ? budgets[move.to] : nil
    }
}

extension DeadlineRun: Pace {
    func latents(after move: Move) -> Int? {
        move.to < plan.latents.count ? plan.latents[move.to] : nil
    }
}
