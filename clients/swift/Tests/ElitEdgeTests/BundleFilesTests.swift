import XCTest

@testable import ElitEdge

final class BundleFilesTests: XCTestCase {
    private struct Digests: Decodable {
        let packages: [String: String]
        let files: [String: String]
    }

    private var folder: URL!

    /// A bundle of its own for each test.
    override func setUpWithError() throws {
        folder = FileManager.default.temporaryDirectory.appendingPathComponent("\(UUID().uuidString).elit")
        try FileManager.default.copyItem(at: Golden.url("tiny.elit"), to: folder)
    }

    override func tearDownWithError() throws {
        try FileManager.default.removeItem(at: folder)
    }

    func testDigestsAreThePythonPackages() throws {
        let digests: Digests = try Golden.read("digests.json")
        for (name, digest) in digests.files {
            XCTAssertEqual(try FileDigest.of(file: folder.appendingPathComponent(name)), digest)
        }
        let files = try BundleFiles.open(folder)
        for (package, digest) in digests.packages {
            XCTAssertEqual(files.digest(ofPackage: package), digest)
            XCTAssertEqual(
                try files.url(ofPackage: package).standardizedFileURL.path,
                folder.appendingPathComponent(package).resolvingSymlinksInPath().standardizedFileURL.path)
        }
    }

    func testKnownDigests() {
        // FIPS 180-4's examples, and lengths around a block
        XCTAssertEqual(
            FileDigest.of(text: ""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
        XCTAssertEqual(
            FileDigest.of(text: "abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
        XCTAssertEqual(
            FileDigest.of(text: String(repeating: "a", count: 1_000_000)),
            "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0")
    }

    func testPiecesHashAsTheWhole() {
        let bytes = (0..<300).map { UInt8($0 % 251) }
        for cut in [0, 1, 55, 56, 63, 64, 65, 119, 120, 128, 300] {
            var pieces = PlainSHA256()
            for piece in [bytes[..<cut], bytes[cut...]] { piece.withUnsafeBytes { pieces.update(bufferPointer: $0) } }
            var whole = PlainSHA256()
            bytes.withUnsafeBytes { whole.update(bufferPointer: $0) }
            XCTAssertEqual(pieces.finalize(), whole.finalize(), "cut at \(cut)")
        }
    }

    func testAnAppMayShipOneModelAlone() throws {
        for name in ["onnx", "coreml/gpu-int8"] { try remove(name) }
        assertRefused("onnx/model.onnx", "gpu-int8", "missing") { try BundleFiles.open(folder) }
        let files = try BundleFiles.open(folder) { try $0.coreMLModel(layout: .ane, ios: 18) }
        XCTAssertNoThrow(try files.url(ofPackage: "coreml/ane-fp16/velocity.mlpackage"))
        assertRefused("latents_04.mlpackage was not checked") {
            try files.url(ofPackage: "coreml/gpu-int8/latents_04.mlpackage")
        }
        assertRefused("gpu-int8", "missing") {
            try BundleFiles.open(folder) { try $0.coreMLModel(layout: .gpu, ios: 18) }
        }
    }

    func testWhatOneModelNeedsIsCheckedInThatCaseToo() throws {
        try write("coreml/ane-fp16/velocity.mlpackage/Data/model.mlmodel", "no m0del")
        assertRefused("model.mlmodel does not match its digest") {
            try BundleFiles.open(folder) { try $0.coreMLModel(layout: .ane, ios: 18) }
        }
        XCTAssertNoThrow(try BundleFiles.open(folder) { try $0.coreMLModel(layout: .gpu, ios: 18) })
    }

    func testDamage() throws {
        try write("onnx/model.onnx", "longer than it was")
        assertRefused("has 18 bytes, the manifest says 8", "copy or export it again") { try BundleFiles.open(folder) }
        try write("onnx/model.onnx", "n0 graph")
        assertRefused("does not match its digest") { try BundleFiles.open(folder) }
    }

    func testForeignFiles() throws {
        try write("onnx/.hidden", "")
        assertRefused("onnx/.hidden not listed") { try BundleFiles.open(folder) }
        assertRefused("onnx/.hidden not listed") {
            try BundleFiles.open(folder) { try $0.coreMLModel(layout: .gpu, ios: 18) }
        }
    }

    func testLinks() throws {
        let link = folder.appendingPathComponent("onnx/model.onnx")
        try FileManager.default.moveItem(at: link, to: folder.appendingPathExtension("away"))
        defer { try? FileManager.default.removeItem(at: folder.appendingPathExtension("away")) }
        try FileManager.default.createSymbolicLink(
            at: link, withDestinationURL: folder.appendingPathExtension("away"))
        assertRefused("model.onnx is a link or a special file") { try BundleFiles.open(folder) }
    }

    func testALinkedFolder() throws {
        let away = folder.appendingPathExtension("away")
        try FileManager.default.moveItem(at: folder.appendingPathComponent("onnx"), to: away)
        defer { try? FileManager.default.removeItem(at: away) }
        try FileManager.default.createSymbolicLink(
            at: folder.appendingPathComponent("onnx"), withDestinationURL: away)
        assertRefused("onnx is a link or a special file") { try BundleFiles.open(folder) }
    }

    func testPathsThatLeadOutside() throws {
        for path in ["../model.onnx", "/etc/passwd", "onnx//model.onnx", "onnx/./model.onnx", "onnx\\\\model.onnx", ""]
        {
            let text = try String(contentsOf: Golden.url("tiny.elit/manifest.json"), encoding: .utf8)
            try write(
                "manifest.json",
                text.replacingOccurrences(of: "\"onnx/model.onnx\": {", with: "\"\(path)\": {"))
            assertRefused("no plain path inside it") { try BundleFiles.open(folder) }
        }
    }

    func testWhatIsNoBundle() throws {
        try remove("manifest.json")
        assertRefused("it has no manifest.json") { try BundleFiles.open(folder) }
        assertRefused("no bundle at") { try BundleFiles.open(folder.appendingPathExtension("none")) }
    }

    private func write(_ name: String, _ text: String) throws {
        try Data(text.utf8).write(to: folder.appendingPathComponent(name))
    }

    private func remove(_ name: String) throws {
        try FileManager.default.removeItem(at: folder.appendingPathComponent(name))
    }
}
