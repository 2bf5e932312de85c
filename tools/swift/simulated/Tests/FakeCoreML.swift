import CoreML
import Foundation

@testable import ElitEdge

/// Packages that compute what `FakeModel` does: float16 in and out for "ane", rows apart in memory, a record of calls.
final class FakeCoreML: Simulation, @unchecked Sendable {
    private let lock = NSLock()
    private let model: FakeModel
    private var calls: [String] = []
    /// Compiled folders that do not open.
    private var damaged: Set<String> = []
    /// Refuses the next compilation.
    private var refuses = false

    init() throws {
        model = try FakeModel()
    }

    var all: [String] { lock.withLock { calls } }

    func forget() { lock.withLock { calls = [] } }

    func damage(_ compiled: URL) { lock.withLock { _ = damaged.insert(compiled.path) } }

    func refuse() { lock.withLock { refuses = true } }

    func compile(_ package: URL) throws -> URL {
        record("compile \(package.lastPathComponent)")
        guard !lock.withLock({ refuses }) else { throw CocoaError(.fileReadCorruptFile) }
        let target = FileManager.default.temporaryDirectory.appendingPathComponent("\(UUID().uuidString).mlmodelc")
        try FileManager.default.copyItem(at: package, to: target)
        let name = package.deletingPathExtension().lastPathComponent
        try Data(name.utf8).write(to: target.appendingPathComponent("name"))
        return target
    }

    func load(_ compiled: URL, _ configuration: MLModelConfiguration) throws {
        record("load \(name(compiled, configuration)) \(configuration.computeUnits)")
        let isDamaged = lock.withLock { damaged.remove(compiled.path) != nil }
        guard !isDamaged, FileManager.default.fileExists(atPath: compiled.path) else {
            throw CocoaError(.fileReadCorruptFile)
        }
    }

    func predict(
        _ compiled: URL, _ configuration: MLModelConfiguration, _ input: any MLFeatureProvider
    ) throws -> any MLFeatureProvider {
        let name = name(compiled, configuration)
        record("predict \(name)")
        let numbers = { (name: String) -> (MLMultiArray, [Float]) in
            let array = input.featureValue(for: name)!.multiArrayValue!
            return (array, Self.read(array))
        }
        let out: MLMultiArray
        if name.hasPrefix("condition") {
            let ((_, t), (_, y)) = (numbers("t"), numbers("y"))
            guard zip(t, y).allSatisfy({ (0...1).contains($0) && (0...3).contains($1) }) else {
                throw CocoaError(.coderInvalidValue)  // a row of padding is computed like any other
            }
            let made = FakeModel.condition(t, y.map { Int($0) }, model.manifest)
            out = Self.apart(made, [t.count, made.count / t.count], .float16)
            return try MLDictionaryFeatureProvider(dictionary: ["modulations": out])
        }
        let ((x, state), (_, modulations)) = (numbers("x"), numbers("modulations"))
        let latents = Int(name.split(whereSeparator: { "_ ".contains($0) })[1])!
        let made = FakeModel.velocity(state, modulations, latents, model.manifest)
        out = Self.apart(made, x.shape.map(\.intValue), x.dataType)
        return try MLDictionaryFeatureProvider(dictionary: ["velocity": out])
    }

    /// The function, or the package that holds it alone.
    private func name(_ compiled: URL, _ configuration: MLModelConfiguration) -> String {
        let package = try? String(contentsOf: compiled.appendingPathComponent("name"), encoding: .utf8)
        return configuration.functionName ?? "\(package ?? "no package") alone"
    }

    private func record(_ call: String) { lock.withLock { calls.append(call) } }

    /// By Swift's own Float16, not by the library's conversion.
    private static func read(_ array: MLMultiArray) -> [Float] {
        array.withUnsafeBytes { bytes in
            switch array.dataType {
            case .float16: return bytes.bindMemory(to: Float16.self).map { Float($0) }
            case .int32: return bytes.bindMemory(to: Int32.self).map { Float($0) }
            default: return Array(bytes.bindMemory(to: Float.self))
            }
        }
    }

    /// An array whose last axis has room for 128 numbers.
    private static func apart(_ numbers: [Float], _ shape: [Int], _ kind: MLMultiArrayDataType) -> MLMultiArray {
        var strides = [1]
        for (axis, size) in shape.enumerated().dropFirst().reversed() {
            strides.insert(axis == shape.count - 1 ? 128 : strides[0] * size, at: 0)
        }
        let array = MLMultiArray(shape: shape, dataType: kind, strides: strides)
        let width = shape[shape.count - 1]
        precondition(width <= 128)
        array.withUnsafeMutableBytes { bytes, _ in
            for (index, number) in numbers.enumerated() {
                let place = index / width * 128 + index % width
                if kind == .float16 {
                    bytes.bindMemory(to: Float16.self)[place] = Float16(number)
                } else {
                    bytes.bindMemory(to: Float.self)[place] = number
                }
            }
        }
        return array
    }
}
