@testable import ElitEdge

/// Not a model: the arithmetic of `FakeSession` in tools/golden_numbers.py, so that whole runs can be compared.
struct FakeModel: VelocityModel {
    let manifest: Manifest
    /// Told of each budget that is prepared.
    var prepared: @Sendable (_ latents: Int, _ samples: Int) -> Void = { _, _ in }
    /// Put in place of each velocity.
    var spoiled: (@Sendable ([Float]) -> [Float])?
    /// Told before each velocity.
    var asked: @Sendable (_ latents: Int) async -> Void = { _ in }

    init() throws {
        manifest = try Golden.tinyManifest()
    }

    func condition(times: [Float], labels: [Int]) async throws -> [Float] {
        Self.condition(times, labels, manifest)
    }

    func velocity(x: [Float], modulations: [Float], latents: Int) async throws -> [Float] {
        await asked(latents)
        let made = Self.velocity(x, modulations, latents, manifest)
        return spoiled?(made) ?? made
    }

    static func condition(_ times: [Float], _ labels: [Int], _ manifest: Manifest) -> [Float] {
        let width = manifest.model.modulationSize
        return zip(times, labels).flatMap { t, y in
            (0..<width).map { t * (Float($0 % 7) * 0.125 - 0.375) + Float(y - 1) * 0.25 }
        }
    }

    static func velocity(_ x: [Float], _ modulations: [Float], _ latents: Int, _ manifest: Manifest) -> [Float] {
        let (size, width) = (manifest.model.sampleSize, manifest.model.modulationSize)
        let kept = 1 - Float(0.25) / Float(latents)
        return x.indices.map { index in
            let row = index / size * width
            let pull = modulations[row + 1] + modulations[row + width - 1]
            return x[index] * kept + pull * (Float(index % size % 5) * 0.5 - 1) + x[index] * x[index] * 0.03125
        }
    }

    func prepare(latents: Int, samples: Int) async {
        prepared(latents, samples)
    }
}
