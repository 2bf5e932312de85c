import Foundation

extension Planner {
    /// The bound that stands in the way, and the plan that comes closest to it while it keeps the others.
    ///
    /// - Parameter plans: the cheapest of each runtime, guidance and number of steps; at least one.
    func refusal(of wish: Wish, _ plans: [Plan]) -> PlanError {
        if wish.joules != nil, plans.allSatisfy({ $0.joules == nil }) {
            return .plan(
                "an energy bound needs a power sensor, and no profile here has one; leave the bound", nearest: nil)
        }
        if wish.memoryBytes != nil, plans.allSatisfy({ $0.memoryBytes == nil }) {
            return .plan(
                "a memory bound needs measured memory, and no profile here has any; leave the bound", nearest: nil)
        }
        let memoryBound = wish.memoryBytes.map(Double.init)
        let small = plans.filter { Self.isWithin($0.memoryBytes.map(Double.init), memoryBound) }
        guard !small.isEmpty else { return tooLarge(wish, plans) }
        let thrifty = small.filter { Self.isWithin($0.neededJoules, wish.joules) }
        guard !thrifty.isEmpty else { return tooHungry(wish, small) }
        let nearest = thrifty.min { $0.neededMs < $1.neededMs }
        return .deadline(
            "no plan keeps \(fixed(wish.deadlineMs ?? 0, digits: 0)) ms here; the fastest needs "
                + "\(nearest.map { fixed($0.neededMs.rounded(.up), digits: 0) } ?? "more") ms: \(words(nearest))",
            nearest: nearest)
    }

    private func tooLarge(_ wish: Wish, _ plans: [Plan]) -> PlanError {
        func key(_ plan: Plan) -> (Double, Double) { (plan.memoryBytes.map(Double.init) ?? .infinity, plan.neededMs) }
        let nearest = plans.min { key($0) < key($1) }
        let megabytes = (Double(nearest?.memoryBytes ?? 0) / 1e6).rounded(.up)
        return .plan(
            "no plan holds within \(fixed(Double(wish.memoryBytes ?? 0) / 1e6, digits: 0)) MB for \(wish.batch) "
                + "pictures at once; the nearest needs \(fixed(megabytes, digits: 0)) MB: \(words(nearest))",
            nearest: nearest)
    }

    private func tooHungry(_ wish: Wish, _ plans: [Plan]) -> PlanError {
        let nearest = plans.min { ($0.neededJoules ?? .infinity) < ($1.neededJoules ?? .infinity) }
        let needed = nearest?.neededJoules.map(Self.roundedUp) ?? "an unknown energy"
        return .plan(
            "no plan takes at most \(String(format: "%g", wish.joules ?? 0)) J; the nearest needs \(needed): "
                + words(nearest),
            nearest: nearest)
    }

    private func words(_ plan: Plan?) -> String { plan.map(String.init(describing:)) ?? "none" }

    /// To three digits, and never less than it is: what is printed can be asked for.
    private static func roundedUp(_ joules: Double) -> String {
        let unit = pow(10, log10(joules).rounded(.down) - 2)
        return String(format: "%.3g J", (joules / unit).rounded(.up) * unit)
    }
}
