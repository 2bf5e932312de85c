import Foundation

@testable import ElitEdge

/// Stands for a model on a device: a pass takes 3 ms and 1 ms a latent, for each sample, on a clock that it moves itself.
struct TimedModel: VelocityModel {
    let manifest: Manifest
    let clock = HandClock()
    /// Factor of every pass.
    var slowness = 1.0
    /// More that a pass takes after 50 ms of real rest.
    var wakingMs = 0.0
    private let last = LastPass()

    init(slowness: Double = 1, wakingMs: Double = 0) throws {
        manifest = try Golden.tinyManifest()
        (self.slowness, self.wakingMs) = (slowness, wakingMs)
    }

    var now: SecondsClock { { [clock] in clock.now } }

    func passMs(_ latents: Int, _ batch: Int = 1) -> Double { Double(batch) * (3 + Double(latents)) * slowness }

    func condition(times: [Float], labels: [Int]) async throws -> [Float] {
        clock.advance(ms: 0.2)
        return [Float](repeating: 0, count: times.count * manifest.model.modulationSize)
    }

    func velocity(x: [Float], modulations: [Float], latents: Int) async throws -> [Float] {
        clock.advance(ms: passMs(latents, x.count / manifest.model.sampleSize))
        if last.restedMs() > 50 { clock.advance(ms: wakingMs) }
        return x
    }

    /// When the pass before this one was, in real time.
    private final class LastPass: @unchecked Sendable {
        private var at = ProcessInfo.processInfo.systemUptime

        func restedMs() -> Double {
            defer { at = ProcessInfo.processInfo.systemUptime }
            return (ProcessInfo.processInfo.systemUptime - at) * 1e3
        }
    }
}
