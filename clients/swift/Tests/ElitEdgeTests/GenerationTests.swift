import XCTest

@testable import ElitEdge

/// Whole runs over plain arithmetic, against the Python package's.
final class GenerationTests: XCTestCase {
    private struct File: Decodable {
        struct Asked: Decodable {
            let labels: [Int]
            let steps: Int?
            let latents: Latents?
            let solver: Solver?
            let guidance: GuidanceKind?
            let scale: Double?
            let weakLatents: Int?
            let interval: [Double]?
            let seed: String
            let previewEvery: Int?
        }
        /// One number, or one for each step.
        struct Latents: Decodable {
            let setting: GenerationSettings.Latents

            init(from decoder: any Decoder) throws {
                let value = try decoder.singleValueContainer()
                if let one = try? value.decode(Int.self) {
                    setting = .even(one)
                } else {
                    setting = .each(try value.decode([Int].self))
                }
            }
        }
        struct Case: Decodable {
            let settings: Asked
            let noise: [Double]?
            let samples: [Double]
            let pixels: [UInt8]
            let latents: [Int]
            let solver: Solver
            let guidance: GuidanceKind
            let scale: Double
            let weakLatents: Int
            let drew: Bool
            let progress: [[Int]]
            let previews: [[UInt8]?]
        }
        let cases: [Case]
    }

    func testEveryRunIsThePythonPackages() async throws {
        for (number, wanted) in try Golden.read("generation.json", as: File.self).cases.enumerated() {
            let told = Told()
            let out = try await generate(
                FakeModel(), labels: wanted.settings.labels, settings: settings(wanted)
            ) { await told.hear($0) }
            let what = "case \(number)"
            // drawn noise agrees with numpy's to the last bits, which float32 may round apart
            let exact = wanted.noise != nil && wanted.solver != .eulerMaruyama
            assertClose(out.samples, wanted.samples, within: exact ? 1e-12 : 1e-5, what)
            XCTAssertEqual(out.latents, wanted.latents, what)
            XCTAssertEqual(out.solver, wanted.solver, what)
            XCTAssertEqual(out.guidance.kind, wanted.guidance, what)
            XCTAssertEqual(out.guidance.scale, wanted.scale, what)
            XCTAssertEqual(out.guidance.weakLatents, wanted.weakLatents, what)
            XCTAssertEqual(out.seed != nil, wanted.drew, what)
            XCTAssertEqual(out.stepMs.count, wanted.latents.count, what)
            let progress = await told.progress
            XCTAssertEqual(progress.map { [$0.step, $0.steps, $0.latents] }, wanted.progress, what)
            if exact {
                XCTAssertEqual(out.pictures.map(colours), wanted.pixels, what)
                XCTAssertEqual(progress.map { $0.preview.map(colours) }, wanted.previews, what)
            }
        }
    }

    func testTheNextBudgetIsPreparedWhileOneIsAtWork() async throws {
        let told = Calls()
        var model = try FakeModel()
        model.prepared = { latents, samples in told.add("prepare \(latents) for \(samples)") }
        model.asked = { latents in told.add("pass \(latents)") }
        _ = try await generate(
            model, labels: [0, 1], settings: GenerationSettings(latents: .each([4, 4, 2]), guidance: .cfg, scale: 2))
        XCTAssertEqual(told.all, ["pass 4", "prepare 2 for 4", "pass 4", "pass 2"])
    }

    func testACancelledTaskEndsBeforeItsNextStep() async throws {
        var model = try FakeModel()
        let calls = Calls()
        model.asked = { latents in
            calls.add("pass")
            withUnsafeCurrentTask { $0?.cancel() }
        }
        let run = Task { [model] in
            try await generate(model, labels: [0], settings: GenerationSettings(steps: 5, guidance: GuidanceKind.none))
        }
        let error = await refusal { try await run.value }
        XCTAssertEqual(error, .cancelled("cancelled after 1 of 5 steps"))
        XCTAssertEqual(calls.all, ["pass"])
    }

    func testSamplesThatAreNoPictures() async throws {
        var model = try FakeModel()
        model.spoiled = { $0.map { _ in .nan } }
        let broken = await refusal { [model] in
            try await generate(
                model, labels: [0], settings: GenerationSettings(latents: .each([3, 2]), guidance: GuidanceKind.none))
        }
        XCTAssertTrue(broken?.message.contains("no longer finite after step 1 of 2") ?? false, "\(broken!)")
        XCTAssertTrue(broken?.message.contains("3 latents a group") ?? false, "\(broken!)")

        let size = model.manifest.model.sampleSize
        let start = (0..<2 * size).map { Double($0 % 7) }
        model.spoiled = { made in made.indices.map { $0 < size ? Float($0 % 7) - 0.5 : 0 } }
        let flat = await refusal { [model] in
            try await generate(
                model, labels: [0, 1], settings: GenerationSettings(steps: 1, guidance: GuidanceKind.none, noise: start)
            )
        }
        XCTAssertTrue(flat?.message.contains("picture 0 came out flat") ?? false, "\(flat!)")
    }

    func testWhatCannotBeAskedFor() async throws {
        let model = try FakeModel()
        let cases: [([Int], GenerationSettings, String)] = [
            ([], GenerationSettings(), "no labels"),
            ([3], GenerationSettings(), "unknown label 3; give a number from 0 to 2"),
            ([-1], GenerationSettings(), "unknown label -1"),
            ([0], GenerationSettings(steps: 0), "steps = 0"),
            ([0], GenerationSettings(latents: .even(5)), "latents = 5: this model keeps 1 to 4"),
            ([0], GenerationSettings(steps: 3, latents: .each([1, 2])), "2 budgets for 3 steps"),
            ([0], GenerationSettings(latents: .each([])), "no budgets"),
            ([0], GenerationSettings(weakLatents: 0), "latents = 0"),
            ([0], GenerationSettings(scale: -2), "guidance scale -2.0"),
            ([0], GenerationSettings(noise: [1, 2]), "noise has 2 numbers; 1 pictures need 48"),
            ([0], GenerationSettings(noise: [.nan] + [Double](repeating: 0, count: 47)), "not finite"),
        ]
        for (labels, settings, message) in cases {
            let error = await refusal { try await generate(model, labels: labels, settings: settings) }
            XCTAssertTrue(error?.message.contains(message) ?? false, "\(message): \(String(describing: error))")
        }
        XCTAssertEqual(try model.manifest.label("heart"), 1)
        assertRefused("unknown label cat", "dog, heart, clock") { try model.manifest.label("cat") }
    }

    private func settings(_ wanted: File.Case) -> GenerationSettings {
        let asked = wanted.settings
        return GenerationSettings(
            steps: asked.steps, latents: asked.latents?.setting, solver: asked.solver, guidance: asked.guidance,
            scale: asked.scale, weakLatents: asked.weakLatents, interval: asked.interval.map { $0[0]...$0[1] } ?? 0...1,
            noise: wanted.noise, seed: UInt64(asked.seed, radix: 16)!, previewEvery: asked.previewEvery ?? 0)
    }
}

/// [B, S, S, 3] of pictures with an alpha of 255.
private func colours(_ pictures: [Picture]) -> [UInt8] {
    pictures.flatMap { picture in
        XCTAssertTrue(stride(from: 3, to: picture.rgba.count, by: 4).allSatisfy { picture.rgba[$0] == 255 })
        return picture.rgba.indices.filter { $0 % 4 != 3 }.map { picture.rgba[$0] }
    }
}

private actor Told {
    private(set) var progress: [GenerationProgress] = []

    func hear(_ each: GenerationProgress) { progress.append(each) }
}

/// What was called, in its order.
final class Calls: @unchecked Sendable {
    private let lock = NSLock()
    private var calls: [String] = []

    func add(_ call: String) { lock.withLock { calls.append(call) } }

    var all: [String] { lock.withLock { calls } }
}
