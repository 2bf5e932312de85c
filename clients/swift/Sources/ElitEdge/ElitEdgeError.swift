import Foundation

/// Errors that an app can act on; `PlanError` stands beside it, for bounds that no plan keeps. A message says what was
/// asked, what was found and what to do.
public enum ElitEdgeError: Error, Equatable, Sendable {
    /// A value that cannot be honoured: an unknown label, steps below one, a budget that the model does not have.
    case request(String)
    /// A bundle that is missing, damaged, of another schema version, or that points outside itself.
    case bundle(String)
    /// A Core ML package that this device or this version of the system cannot open or run.
    case unavailable(String)
    /// A sample that is no picture: not finite, or the same everywhere.
    case picture(String)
    /// A run that was ended between two steps.
    case cancelled(String)

    /// The message alone.
    public var message: String {
        switch self {
        case .request(let text), .bundle(let text), .unavailable(let text), .picture(let text), .cancelled(let text):
            return text
        }
    }
}

extension ElitEdgeError: LocalizedError {
    public var errorDescription: String? { message }
}
