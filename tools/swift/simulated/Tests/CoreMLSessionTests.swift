import CoreML
import XCTest

@testable import ElitEdge

/// What a session does around Core ML, with a stand-in for it: order and bookkeeping. Core ML itself does not run here.
final class CoreMLSessionTests: XCTestCase {
    private var files: BundleFiles!
    private var caches: URL!
    private var fake: FakeCoreML!

    override func setUpWithError() throws {
        files = try BundleFiles.open(Golden.url("tiny.elit"))
        caches = FileManager.default.temporaryDirectory.appendingPathComponent(UUID().uuidString)
        fake = try FakeCoreML()
        Simulated.current = fake
    }

    override func tearDownWithError() throws {
        try? FileManager.default.removeItem(at: caches)
    }

    private func open(_ layout: CoreMLModel.Layout = .ane, keep: Int = 6) async throws -> CoreMLSession {
        let model = try files.manifest.coreMLModel(layout: layout, ios: 18)
        return try await CoreMLSession.open(files, model: model, keep: keep, caches: caches)
    }

    func testAPackageIsCompiledOnceForItsContent() async throws {
        _ = try await open()
        let compiled = ["compile condition.mlpackage", "compile velocity.mlpackage"]
        XCTAssertEqual(fake.all, compiled + ["load condition cpuOnly"])
        let digests = ["condition", "velocity"].map { files.digest(ofPackage: "coreml/ane-fp16/\($0).mlpackage") }
        XCTAssertEqual(
            try FileManager.default.contentsOfDirectory(atPath: caches.path).sorted(),
            digests.map { "\($0).mlmodelc" }.sorted())
        fake.forget()
        _ = try await open()
        XCTAssertEqual(fake.all, ["load condition cpuOnly"])
    }

    func testADamagedCacheIsMadeAnew() async throws {
        _ = try await open()
        fake.forget()
        let digest = files.digest(ofPackage: "coreml/ane-fp16/condition.mlpackage")
        fake.damage(caches.appendingPathComponent("\(digest).mlmodelc", isDirectory: true))
        _ = try await open()
        XCTAssertEqual(fake.all.dropFirst(), ["compile condition.mlpackage", "load condition cpuOnly"])
        XCTAssertEqual(fake.all.count, 3)
    }

    func testAPackageThatIsRefused() async throws {
        fake.refuse()
        let error = await refusal { try await open() }
        XCTAssertTrue(
            error?.message.contains("Core ML refuses coreml/ane-fp16/condition.mlpackage") ?? false, "\(error!)")
    }

    func testAPackageThatWasNotChecked() async throws {
        files = try BundleFiles.open(Golden.url("tiny.elit")) { try $0.coreMLModel(layout: .gpu, ios: 18) }
        let error = await refusal { try await open(.ane) }
        XCTAssertTrue(error?.message.contains("was not checked") ?? false, "\(error!)")
        XCTAssertEqual(fake.all, [])
    }

    func testConditionsOfManyRows() async throws {
        let session = try await open(.gpu)
        fake.forget()
        let times: [Float] = [0, 0.25, 0.5, 0.75, 1]
        let made = try await session.condition(times: times, labels: [0, 1, 2, 3, 0])
        XCTAssertEqual(fake.all, ["predict condition alone", "predict condition alone"])
        let wanted = FakeModel.condition(times, [0, 1, 2, 3, 0], files.manifest)
        XCTAssertEqual(made, wanted)  // each of them is a float16
    }

    func testVelocitiesOfThreeSamplesAreAPairAndASingle() async throws {
        let session = try await open()
        fake.forget()
        let units = "cpuAndNeuralEngine"
        try await assertVelocities(of: session, latents: 3, within: 5e-4)  // float16 has 11 bits
        XCTAssertEqual(
            fake.all,
            [
                "predict condition", "load latents_03_batch_2 \(units)", "predict latents_03_batch_2",
                "load latents_03 \(units)", "predict latents_03",
            ])
    }

    func testAPackageAFunctionBeforeIOS18() async throws {
        let session = try await open(.gpu)
        XCTAssertEqual(session.manifest.budgets, [1, 4])
        fake.forget()
        try await assertVelocities(of: session, latents: 4, within: 0)
        let one = "predict latents_04 alone"
        XCTAssertEqual(fake.all, ["predict condition alone", "load latents_04 alone cpuAndGPU", one, one, one])
    }

    private func assertVelocities(of session: CoreMLSession, latents: Int, within tolerance: Double) async throws {
        let x = (0..<3 * 48).map { Float($0 % 11) * 0.25 - 1 }
        let modulations = try await session.condition(times: [1, 0.5, 0], labels: [0, 1, 2])
        let made = try await session.velocity(x: x, modulations: modulations, latents: latents)
        let wanted = FakeModel.velocity(x, modulations, latents, files.manifest)
        assertClose(made.map(Double.init), wanted.map(Double.init), within: tolerance, "\(latents) latents")
    }

    func testABudgetThatWasNotCompiled() async throws {
        let session = try await open()
        let error = await refusal { try await session.velocity(x: [], modulations: [], latents: 9) }
        XCTAssertTrue(error?.message.contains("latents = 9: the ane fp16 Core ML model has [1, 2, 3, 4]") ?? false)
    }

    func testNumbersThatAreNotThere() async throws {
        let session = try await open()
        let short = await refusal {
            try await session.velocity(
                x: [Float](repeating: 0, count: 96), modulations: [Float](repeating: 0, count: 56), latents: 2)
        }
        XCTAssertTrue(short?.message.contains("modulations has 56 numbers; 2 rows of this model need 112") ?? false)
        let uneven = await refusal { try await session.condition(times: [1, 0], labels: [1]) }
        XCTAssertTrue(uneven?.message.contains("y has 1 numbers; 2 rows") ?? false)
        let none = await refusal { try await session.condition(times: [], labels: []) }
        XCTAssertTrue(none?.message.contains("0 rows") ?? false)
    }

    func testAPreparedBudgetIsLoadedOnce() async throws {
        let session = try await open()
        await session.prepare(latents: 2, samples: 1)
        let load = "load latents_02 cpuAndNeuralEngine"
        for _ in 0..<500 where !fake.all.contains(load) {
            try await Task.sleep(for: .milliseconds(10))
        }
        XCTAssertTrue(fake.all.contains(load), "nothing was loaded ahead")
        let modulations = try await session.condition(times: [1], labels: [0])
        _ = try await session.velocity(x: .init(repeating: 0, count: 48), modulations: modulations, latents: 2)
        XCTAssertEqual(fake.all.filter { $0 == load }.count, 1)
    }

    func testWhatStaysLoadedIsBounded() async throws {
        let session = try await open(keep: 2)
        let modulations = try await session.condition(times: [1], labels: [0])
        fake.forget()
        let x = [Float](repeating: 0, count: 48)
        for latents in [1, 2, 1, 3, 1, 2] {
            await session.prepare(latents: 4, samples: 1)  // which has no place here
            _ = try await session.velocity(x: x, modulations: modulations, latents: latents)
        }
        let loads = fake.all.filter { $0.hasPrefix("load") }.map { $0.prefix(15) }
        XCTAssertEqual(loads, ["load latents_01", "load latents_02", "load latents_03", "load latents_02"])
        await session.unload()
        _ = try await session.velocity(x: x, modulations: modulations, latents: 2)
        XCTAssertEqual(fake.all.last { $0.hasPrefix("load") }?.prefix(15), "load latents_02")
        XCTAssertEqual(fake.all.filter { $0.hasPrefix("load") }.count, 5)
    }

    func testAWholeRun() async throws {
        let session = try await open()
        let settings = GenerationSettings(latents: .each([4, 2, 1]), guidance: .cfg, scale: 2, seed: 3)
        let through = try await generate(session, labels: [0, 2], settings: settings)
        let plain = try await generate(FakeModel(), labels: [0, 2], settings: settings)
        // all of it goes through float16
        assertClose(through.samples, plain.samples, within: 5e-3, "samples")
        XCTAssertNotEqual(through.samples, plain.samples)
    }
}
