import Foundation

/// Seconds that never go back, from any beginning.
public typealias SecondsClock = @Sendable () -> Double

/// The system's own clock.
public let monotonicSeconds: SecondsClock = { ProcessInfo.processInfo.systemUptime }
