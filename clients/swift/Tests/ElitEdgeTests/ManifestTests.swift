import XCTest

@testable import ElitEdge

final class ManifestTests: XCTestCase {
    private struct CoreMLFacts: Decodable {
        let variant: String
        let packages: [String]
        let budgets: [Int]
    }

    private struct Facts: Decodable {
        let name: String
        let latentsPerGroup: Int
        let budgets: [Int]
        let flops: [Int]
        let modulationSize: Int
        let nullLabel: Int
        let classNames: [String]
        let solver: Solver
        let guidance: GuidanceKind
        let scale: Double
        let sampleSpace: Manifest.SampleSpace
        let sizes: [String: Int]
        let digests: [String: String]
        let coreml: [CoreMLFacts]
        let qualityCells: Int
        let qualityDistance: Double
    }

    func testARealManifest() throws {
        let facts: Facts = try Golden.read("manifest.json")
        let manifest = try Manifest.decode(Data(contentsOf: Golden.url("sample-manifest.json")), source: "sample")
        XCTAssertEqual(manifest.name, facts.name)
        XCTAssertEqual(manifest.latentsPerGroup, facts.latentsPerGroup)
        XCTAssertEqual(manifest.budgets, facts.budgets)
        XCTAssertEqual(manifest.ladder.map(\.velocityFlops), facts.flops)
        XCTAssertEqual(manifest.model.modulationSize, facts.modulationSize)
        XCTAssertEqual(manifest.model.nullLabel, facts.nullLabel)
        XCTAssertEqual(manifest.model.classNames, facts.classNames)
        XCTAssertEqual(manifest.sampler.solver, facts.solver)
        XCTAssertEqual(manifest.sampler.guidance, facts.guidance)
        XCTAssertEqual(manifest.sampler.scale, facts.scale)
        XCTAssertEqual(manifest.sampleSpace, facts.sampleSpace)
        XCTAssertEqual(manifest.files.mapValues(\.bytes), facts.sizes)
        XCTAssertEqual(manifest.files.mapValues(\.sha256), facts.digests)
        XCTAssertEqual(manifest.quality?.cells.count, facts.qualityCells)
        XCTAssertEqual(manifest.quality?.cells[0].distance, facts.qualityDistance)
        for (model, fact) in zip(manifest.coreml, facts.coreml) {
            XCTAssertEqual(model.variant, fact.variant)
            XCTAssertEqual(model.packages, fact.packages)
            XCTAssertEqual(model.budgets, fact.budgets)
        }
        XCTAssertEqual(manifest.coreml.count, facts.coreml.count)
    }

    func testWhichModelASystemOpens() throws {
        let manifest = try Golden.tinyManifest()
        XCTAssertEqual(try manifest.coreMLModel(ios: 18).layout, .ane)
        XCTAssertEqual(try manifest.coreMLModel(ios: 17).layout, .gpu)
        XCTAssertEqual(try manifest.coreMLModel(variant: "int8", ios: 26).layout, .gpu)
        assertRefused("no Core ML model that iOS 16 opens", "ane fp16 for iOS 18, gpu int8 for iOS 17") {
            try manifest.coreMLModel(ios: 16)
        }
        assertRefused("no ane int8 Core ML model") { try manifest.coreMLModel(layout: .ane, variant: "int8", ios: 18) }
        XCTAssertEqual([13, 14, 15, 26, 27].map(SystemVersion.iosLikeMacOS), [16, 17, 18, 26, 27])
    }

    func testFunctionsOfABudget() throws {
        let model = try Golden.tinyManifest().coreMLModel(layout: .ane, ios: 18)
        XCTAssertEqual(
            model.functions(.velocity, latents: 3).map(\.name), ["latents_03", "latents_03_batch_2"])
        XCTAssertEqual(model.functions(.condition).map(\.batch), [4])
        XCTAssertEqual(model.functions(.velocity, latents: 5), [])
        XCTAssertEqual(
            model.packages, ["coreml/ane-fp16/condition.mlpackage", "coreml/ane-fp16/velocity.mlpackage"])
    }

    func testAModelMayHaveFewerBudgetsThanItsBundle() throws {
        let manifest = try Golden.tinyManifest()
        let model = try manifest.coreMLModel(layout: .gpu, ios: 17)
        XCTAssertEqual(manifest.budgets, [1, 2, 3, 4])
        XCTAssertEqual(manifest.limited(to: model).budgets, [1, 4])
        XCTAssertEqual(manifest.limited(to: model).model, manifest.model)
    }

    func testAnotherSchemaVersion() throws {
        assertRefused("schema version 2, this ElitEdge reads 1") {
            try changed("\"schema_version\": 1", "\"schema_version\": 2")
        }
        assertRefused("schema version null") { try changed("\"schema_version\": 1", "\"schema\": 1") }
    }

    func testWhatIsNoManifest() throws {
        let cases = [
            ("\"name\": \"tiny\",", "", "no field name"),
            ("\"hidden_size\": 4", "\"hidden_size\": \"4\"", "model.hiddenSize"),
            ("\"hidden_size\": 4", "\"hidden_size\": 0", "model.hidden_size is 0"),
            ("\"image_size\": 4", "\"image_size\": 5", "5 pixels a side in patches of 2"),
            ("\"num_classes\": 3", "\"num_classes\": 4", "3 class_names for num_classes 4"),
            ("\"solver\": \"euler\"", "\"solver\": \"best\"", "sampler.solver"),
            ("\"steps\": 3", "\"steps\": 0", "sampler"),
            ("\"latents_04\",\n     \"latents\": 4", "\"latents_04\",\n     \"latents\": 9", "latents 9"),
            ("\"role\": \"condition\"", "\"role\": \"velocity\"", "latents null for a velocity"),
            ("\"name\": \"x\"", "\"name\": \"m\"", "its inputs are not modulations and x"),
            ("\"bytes\": 8", "\"bytes\": -8", "no size"),
            ("{", "", "whole"),
        ]
        for (before, after, message) in cases {
            assertRefused(message, "export the bundle again") { try changed(before, after) }
        }
    }

    /// The tiny manifest with a piece of its text replaced everywhere.
    private func changed(_ before: String, _ after: String) throws -> Manifest {
        let text = try String(contentsOf: Golden.url("tiny.elit/manifest.json"), encoding: .utf8)
        XCTAssertTrue(text.contains(before), "\(before) is no part of the manifest")
        return try Manifest.decode(Data(text.replacingOccurrences(of: before, with: after).utf8), source: "changed")
    }
}
