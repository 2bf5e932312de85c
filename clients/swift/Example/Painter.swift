import ElitEdge
import SwiftUI

/// Opens the app's bundle and makes one picture after another.
@MainActor
final class Painter: ObservableObject {
    /// What a picture may cost.
    enum Effort {
        case steps(Int, latents: Int)
        case deadline(seconds: Double)
    }

    @Published private(set) var manifest: Manifest?
    @Published private(set) var picture: Picture?
    @Published private(set) var status = "Opening the bundle"
    /// How much of the run is done, 0...1; nil while nothing runs.
    @Published private(set) var done: Double?

    private var session: CoreMLSession?
    private var keeper: ModelPlanner?
    private var run: Task<Void, Never>?

    /// Opens sample.elit of the app's resources: the first time on a device its packages are compiled.
    func open() async {
        do {
            guard let folder = Bundle.main.url(forResource: "sample", withExtension: "elit") else {
                status = "This app has no sample.elit among its resources; see the README of the example"
                return
            }
            // digests take a moment, and not on the main thread
            let files = try await Task.detached { try BundleFiles.open(folder) { try $0.coreMLModel() } }.value
            let session = try await CoreMLSession.open(files)
            let version = ProcessInfo.processInfo.operatingSystemVersionString
            keeper = ModelPlanner(
                session, runtime: "coreml", precision: session.model.variant, version: version)
            (self.session, manifest) = (session, session.manifest)
            status = "Ready: \(session.model.layout.rawValue) \(session.model.variant)"
        } catch {
            status = error.localizedDescription
        }
    }

    func paint(_ label: Int, _ effort: Effort, seed: UInt64) {
        guard run == nil else { return }
        done = 0
        run = Task {
            do {
                let out = try await make(label, effort, seed: seed)
                picture = out?.pictures?.first
                status = out.map(Self.words) ?? status
            } catch {
                status = error.localizedDescription
            }
            (run, done) = (nil, nil)
        }
    }

    /// Ends the run before its next step.
    func cancel() {
        run?.cancel()
    }

    private func make(_ label: Int, _ effort: Effort, seed: UInt64) async throws -> Generation? {
        guard let session, let keeper else { return nil }
        var settings = GenerationSettings(seed: seed, previewEvery: 2)
        let show: @Sendable (GenerationProgress) async -> Void = { [weak self] in await self?.show($0) }
        switch effort {
        case .steps(let steps, let latents):
            settings.steps = steps
            settings.latents = .even(latents)
            return try await generate(session, labels: [label], settings: settings, progress: show)
        case .deadline(let seconds):
            let begun = monotonicSeconds()
            let planner = try await keeper.ready(deadlineMs: seconds * 1e3)
            var run = try DeadlineRun(
                planner: planner, classes: [label], begun: begun, deadlineMs: seconds * 1e3,
                pressure: Pressure.sustainableShare)
            let out = try await generate(session, labels: [label], deadline: &run, settings: settings, progress: show)
            await keeper.learn(from: run)
            return out
        }
    }

    private func show(_ progress: GenerationProgress) {
        done = Double(progress.step) / Double(progress.steps)
        picture = progress.preview?.first ?? picture
    }

    private nonisolated static func words(_ out: Generation) -> String {
        let ms = Int(out.stepMs.reduce(out.conditionMs, +))
        let latents = Set(out.latents).sorted().map(String.init).joined(separator: ", ")
        return "\(out.latents.count) steps at \(latents) latents, \(ms) ms"
    }
}
