import Foundation

/// A bound that no plan keeps here.
public enum PlanError: Error, Sendable, Equatable {
    /// No plan fits the memory or energy, or none can be held against it. `nearest` comes closest; nil where nothing
    /// can be said.
    case plan(String, nearest: Plan?)
    /// A deadline that even the fastest plan would miss.
    case deadline(String, nearest: Plan?)

    /// The message alone.
    public var message: String {
        switch self {
        case .plan(let text, _), .deadline(let text, _): return text
        }
    }

    /// The plan that comes closest.
    public var nearest: Plan? {
        switch self {
        case .plan(_, let plan), .deadline(_, let plan): return plan
        }
    }
}

extension PlanError: LocalizedError {
    public var errorDescription: String? { message }
}
