/// One input or output of a Core ML function; every shape is fixed.
public struct TensorSpec: Codable, Hashable, Sendable {
    public enum Kind: String, Codable, Sendable {
        case float32, float16, int32
    }

    public let name: String
    public let dtype: Kind
    public let shape: [Int]

    /// Numbers in it; nil where the shape is none.
    var count: Int? {
        var product = 1
        for size in shape {
            let (value, overflow) = product.multipliedReportingOverflow(by: size)
            if size < 1 || overflow { return nil }
            product = value
        }
        return product
    }
}

/// A function of a Core ML package: a graph at one budget and one batch.
public struct CoreMLFunction: Codable, Hashable, Sendable {
    public enum Role: String, Codable, Sendable {
        /// t float32 [B], y int32 [B] -> modulations.
        case condition
        /// x, modulations -> v.
        case velocity
    }

    public let role: Role
    /// The .mlpackage, a folder of the bundle.
    public let package: String
    /// Inside the package: "latents_04_batch_2". nil: the package holds this function alone (before iOS 18).
    public let name: String?
    /// nil: a condition.
    public let latents: Int?
    public let batch: Int
    public let inputs: [TensorSpec]
    public let outputs: [TensorSpec]

    /// What is wrong with it for this model; empty where nothing is.
    func faults(_ model: ModelConfig) -> [String] {
        let title = "Core ML function \(name ?? package)"
        guard (1...1024).contains(batch), outputs.count == 1 else {
            return ["\(title): batch \(batch), \(outputs.count) outputs"]
        }
        let wanted: [String: Int]
        let made: Int
        switch role {
        case .condition:
            (wanted, made) = (["t": batch, "y": batch], batch * model.modulationSize)
        case .velocity:
            let sample = batch * model.sampleSize
            (wanted, made) = (["x": sample, "modulations": batch * model.modulationSize], sample)
        }
        var faults: [String] = []
        if Dictionary(inputs.map { ($0.name, $0.count) }, uniquingKeysWith: { first, _ in first }) != wanted {
            let names = wanted.keys.sorted().joined(separator: " and ")
            faults.append("\(title): its inputs are not \(names) of this model")
        }
        if outputs[0].count != made || outputs[0].dtype == .int32 {
            faults.append("\(title): its output has not the \(made) numbers of this model")
        }
        if (role == .velocity) != (latents.map { (1...model.latentsPerGroup).contains($0) } ?? false) {
            faults.append("\(title): latents \(latents.map(String.init) ?? "null") for a \(role.rawValue)")
        }
        return faults
    }
}

/// Packages of one layout, precision and compression: every budget at every batch, and the conditions.
public struct CoreMLModel: Codable, Equatable, Sendable {
    public enum Layout: String, Codable, Sendable {
        /// Linear layers, fused attention: meant for GPUs.
        case gpu
        /// 1x1 convolutions, an attention a head: meant for the Neural Engine.
        case ane
    }

    public let layout: Layout
    /// "fp16" or "fp32".
    public let precision: String
    /// Of the weights ("int8", "int4", "lut6", "lut4"), and with "w8a8" of what enters and leaves each product.
    public let compression: String?
    /// The least version of iOS that opens it.
    public let ios: Int
    public let functions: [CoreMLFunction]

    /// How its numbers are stored: the compression, or the precision.
    public var variant: String { compression ?? precision }

    /// The packages that its functions are in, each once.
    public var packages: [String] { Set(functions.map(\.package)).sorted() }

    /// The budgets that it has functions for, ascending: all of the bundle's ladder, or some.
    public var budgets: [Int] { Set(functions.compactMap(\.latents)).sorted() }

    /// The functions of a role at a budget, by batch, smallest first.
    func functions(_ role: CoreMLFunction.Role, latents: Int? = nil) -> [CoreMLFunction] {
        functions.filter { $0.role == role && $0.latents == latents }.sorted { $0.batch < $1.batch }
    }

    func faults(_ model: ModelConfig) -> [String] {
        var faults = functions.flatMap { $0.faults(model) }
        for role in [CoreMLFunction.Role.condition, .velocity] where !functions.contains(where: { $0.role == role }) {
            faults.append("Core ML model \(layout.rawValue) \(variant) has no \(role.rawValue) function")
        }
        return faults
    }
}

extension Manifest {
    /// This manifest with the ladder that a Core ML model has functions for.
    func limited(to model: CoreMLModel) -> Manifest {
        var manifest = self
        manifest.ladder = ladder.filter { model.budgets.contains($0.latents) }
        return manifest
    }

    /// The Core ML model to open here: the first in the manifest that fits.
    ///
    /// - Parameters:
    ///   - layout: nil takes any.
    ///   - variant: "fp16", "int8", ...; nil takes any.
    ///   - ios: the version of iOS that this system is as new as; see `SystemVersion.ios`.
    /// - Throws: `ElitEdgeError.unavailable`: none fits; the message lists those that the bundle holds.
    public func coreMLModel(
        layout: CoreMLModel.Layout? = nil, variant: String? = nil, ios: Int = SystemVersion.ios
    ) throws -> CoreMLModel {
        let fitting = coreml.first {
            $0.ios <= ios && (layout == nil || $0.layout == layout) && (variant == nil || $0.variant == variant)
        }
        if let fitting { return fitting }
        let wish = [layout?.rawValue, variant].compactMap { $0 }.joined(separator: " ")
        let held = coreml.map { "\($0.layout.rawValue) \($0.variant) for iOS \($0.ios)" }.joined(separator: ", ")
        let what = wish.isEmpty ? "Core ML model" : "\(wish) Core ML model"
        throw ElitEdgeError.unavailable(
            "bundle \(name) has no \(what) that iOS \(ios) opens; it has: \(held.isEmpty ? "none" : held); "
                + "add one with `elit-edge compile BUNDLE --target coreml`"
        )
    }
}
