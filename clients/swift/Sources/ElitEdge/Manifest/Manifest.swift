import Foundation

/// One file of the bundle.
public struct FileEntry: Codable, Equatable, Sendable {
    /// 64 hexadecimal digits.
    public let sha256: String
    public let bytes: Int
}

/// One rung of the ladder: what a pass for one sample costs at that many latents a group.
public struct Budget: Codable, Equatable, Sendable {
    public let latents: Int
    /// Of one step once its conditions are known.
    public let velocityFlops: Int
}

/// What `generate` uses where it is told nothing.
public struct SamplerDefaults: Codable, Equatable, Sendable {
    public let solver: Solver
    public let steps: Int
    public let guidance: GuidanceKind
    public let scale: Double
    public let weakLatents: Int
}

/// What an app knows about a bundle before it opens a graph: the part of manifest.json that a device of Apple's needs.
/// Fields for other devices are not read.
public struct Manifest: Codable, Equatable, Sendable {
    /// Whether a sample is a picture already, in [-1, 1], or needs a decoder.
    public enum SampleSpace: String, Codable, Sendable {
        case pixels, latents
    }

    public static let schemaVersionRead = 1

    public let schemaVersion: Int
    public let name: String
    public let model: ModelConfig
    public let sampleSpace: SampleSpace
    public internal(set) var ladder: [Budget]
    /// By path inside the bundle.
    public let files: [String: FileEntry]
    public let sampler: SamplerDefaults
    /// What each plan loses; nil until `elit-edge evaluate` has measured it.
    public let quality: QualityTable?
    public let coreml: [CoreMLModel]

    /// P: the full budget.
    public var latentsPerGroup: Int { model.latentsPerGroup }

    /// The budgets of the ladder, in its order.
    public var budgets: [Int] { ladder.map(\.latents) }

    /// Reads a manifest.
    ///
    /// - Parameter source: names it in messages.
    /// - Throws: `ElitEdgeError.bundle`: it is no manifest, of another schema version, or says something impossible.
    public static func decode(_ data: Data, source: String) throws -> Manifest {
        let version = try BundleJSON.decode(VersionAlone.self, from: data, source: source).schemaVersion
        guard version == schemaVersionRead else {
            throw ElitEdgeError.bundle(
                "\(source): schema version \(version.map(String.init) ?? "null"), this ElitEdge reads "
                    + "\(schemaVersionRead); export the bundle again, or update the app"
            )
        }
        let manifest = try BundleJSON.decode(Manifest.self, from: data, source: source)
        let faults = manifest.faults
        guard faults.isEmpty else {
            throw ElitEdgeError.bundle(
                "\(source) is no bundle manifest: \(faults.joined(separator: "; ")); export the bundle again")
        }
        return manifest
    }

    /// Returns `latents` if the model has that budget.
    ///
    /// - Throws: `ElitEdgeError.request`: it is outside 1..P.
    @discardableResult
    public func checkLatents(_ latents: Int) throws -> Int {
        guard (1...latentsPerGroup).contains(latents) else {
            throw ElitEdgeError.request(
                "latents = \(latents): this model keeps 1 to \(latentsPerGroup) latents a group")
        }
        return latents
    }

    /// A class by its name, or one of its synonyms in any case.
    ///
    /// - Throws: `ElitEdgeError.request`: the model has no such class, or several.
    public func label(_ name: String) throws -> Int {
        guard let names = model.classNames else {
            throw ElitEdgeError.request(
                "unknown label \(name); the classes have no names; give a number from 0 to \(model.numClasses - 1)")
        }
        return try ClassNames(names: names).find(name)
    }

    private struct VersionAlone: Decodable {
        let schemaVersion: Int?
    }
}

extension Manifest {
    /// As the JSON has it; `quality` and `coreml` may be absent.
    public init(from decoder: any Decoder) throws {
        let fields = try decoder.container(keyedBy: CodingKeys.self)
        schemaVersion = try fields.decode(Int.self, forKey: .schemaVersion)
        name = try fields.decode(String.self, forKey: .name)
        model = try fields.decode(ModelConfig.self, forKey: .model)
        sampleSpace = try fields.decode(SampleSpace.self, forKey: .sampleSpace)
        ladder = try fields.decode([Budget].self, forKey: .ladder)
        files = try fields.decode([String: FileEntry].self, forKey: .files)
        sampler = try fields.decode(SamplerDefaults.self, forKey: .sampler)
        quality = try fields.decodeIfPresent(QualityTable.self, forKey: .quality)
        coreml = try fields.decodeIfPresent([CoreMLModel].self, forKey: .coreml) ?? []
    }

    private var faults: [String] {
        var faults = model.faults
        guard faults.isEmpty else { return faults }
        if ladder.isEmpty || !budgets.allSatisfy({ (1...latentsPerGroup).contains($0) }) {
            faults.append("ladder \(budgets) for a model of \(latentsPerGroup) latents a group")
        }
        if sampler.steps < 1 || !(sampler.scale >= 0) || !(1...latentsPerGroup).contains(sampler.weakLatents) {
            faults.append("sampler: \(sampler)")
        }
        for (path, entry) in files where entry.bytes < 0 || !entry.sha256.isDigest {
            faults.append("files.\(path): no size or no SHA-256")
        }
        return faults + coreml.flatMap { $0.faults(model) }
    }
}

extension String {
    /// 64 hexadecimal digits, lower case.
    fileprivate var isDigest: Bool {
        utf8.count == 64 && utf8.allSatisfy { (48...57).contains($0) || (97...102).contains($0) }
    }
}
