import Foundation

/// Seconds that never go back, from any beginning.
public typealias Clock = @Sendable () -> Double

/// The system's own clock.
public let monotonicSeconds: Clock = { ProcessInfo.processInfo.systemUptime }
