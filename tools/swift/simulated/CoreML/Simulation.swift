import Foundation

/// What stands behind the stand-in's models. Not of Core ML.
public protocol Simulation: Sendable {
    func compile(_ package: URL) throws -> URL
    func load(_ compiled: URL, _ configuration: MLModelConfiguration) throws
    func predict(
        _ compiled: URL, _ configuration: MLModelConfiguration, _ input: any MLFeatureProvider
    ) throws -> any MLFeatureProvider
}

/// The simulation in use; a test sets it.
public enum Simulated {
    private static let held = Held()

    public static var current: any Simulation {
        get { held.lock.withLock { held.simulation! } }
        set { held.lock.withLock { held.simulation = newValue } }
    }

    private final class Held: @unchecked Sendable {
        let lock = NSLock()
        var simulation: (any Simulation)?
    }
}
