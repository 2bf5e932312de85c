import Foundation

/// A bundle on disk, NAME.elit: opened only after its paths, sizes and digests were checked.
public struct BundleFiles: Sendable {
    public let folder: URL
    public let manifest: Manifest
    /// The files whose digests were checked, and that may be handed on.
    private let checked: Set<String>

    private static let manifestFile = "manifest.json"
    private static let manifestLimitBytes = 16 << 20
    private static let damaged = "the bundle is damaged or was changed; copy or export it again"

    /// Opens a bundle that holds just the files that its manifest names, byte for byte.
    ///
    /// - Throws: `ElitEdgeError.bundle`: the folder is no bundle, or any path, size or digest is not what the manifest
    ///   says.
    public static func open(_ folder: URL) throws -> BundleFiles {
        try open(folder) { Set($0.files.keys) }
    }

    /// Opens a bundle of which the app ships the manifest and one Core ML model alone. Other files may be absent, and
    /// are not read; what the manifest does not name is refused still.
    ///
    /// - Parameter choice: the model, as `{ try $0.coreMLModel(layout: .ane) }`.
    /// - Throws: `ElitEdgeError.bundle` as `open`, for the files of that model; what `choice` throws.
    public static func open(_ folder: URL, only choice: (Manifest) throws -> CoreMLModel) throws -> BundleFiles {
        try open(folder) { manifest in
            try Set(choice(manifest).packages.flatMap { manifest.filesBelow($0) })
        }
    }

    /// The folder of a package of a Core ML model, all of whose files were checked.
    ///
    /// - Throws: `ElitEdgeError.bundle`: the manifest names no file of it, or the bundle was opened for another model.
    func url(ofPackage package: String) throws -> URL {
        let files = manifest.filesBelow(package)
        guard !files.isEmpty, checked.isSuperset(of: files) else {
            throw ElitEdgeError.bundle(
                "\(folder.path): the package \(package) was not checked when the bundle was opened; "
                    + "open the bundle for the model that it belongs to"
            )
        }
        return folder.appendingPathComponent(package, isDirectory: true)
    }

    /// Of all files of a package, 64 hexadecimal digits: the same bytes have the same digest wherever they stand.
    func digest(ofPackage package: String) -> String {
        let lines = manifest.filesBelow(package).sorted().map { path in
            "\(path.dropFirst(package.count)) \(manifest.files[path]?.sha256 ?? "")\n"
        }
        return FileDigest.of(text: lines.joined())
    }

    private static func open(_ given: URL, needing needed: (Manifest) throws -> Set<String>) throws -> BundleFiles {
        let folder = given.resolvingSymlinksInPath()
        let found = try regularFiles(in: folder)
        guard let bytes = found[manifestFile] else {
            throw ElitEdgeError.bundle("\(folder.path) is no bundle: it has no \(manifestFile); \(damaged)")
        }
        guard bytes <= manifestLimitBytes else {
            throw ElitEdgeError.bundle("\(folder.path): its \(manifestFile) is larger than any manifest; \(damaged)")
        }
        let path = folder.appendingPathComponent(manifestFile)
        let manifest = try Manifest.decode(reading(path) { try Data(contentsOf: path) }, source: path.path)
        let wanted = try needed(manifest)
        try checkPaths(manifest, in: folder, found: Set(found.keys), wanted: wanted)
        for name in wanted.sorted() {
            guard let entry = manifest.files[name] else { continue }
            let file = folder.appendingPathComponent(name)
            guard found[name] == entry.bytes else {
                throw ElitEdgeError.bundle(
                    "\(file.path) has \(found[name] ?? 0) bytes, the manifest says \(entry.bytes); \(damaged)")
            }
            guard try reading(file, { try FileDigest.of(file: file) }) == entry.sha256 else {
                throw ElitEdgeError.bundle("\(file.path) does not match its digest; \(damaged)")
            }
        }
        return BundleFiles(folder: folder, manifest: manifest, checked: wanted)
    }

    /// Sizes of all files below a folder, by their path inside it, in bytes; a link or a special file is an error.
    private static func regularFiles(in folder: URL) throws -> [String: Int] {
        let manager = FileManager.default
        let paths: [String]
        do {
            paths = try manager.subpathsOfDirectory(atPath: folder.path)
        } catch {
            throw ElitEdgeError.bundle(
                "no bundle at \(folder.path): expected a folder made by `elit-edge export` "
                    + "(\(error.localizedDescription))")
        }
        var sizes: [String: Int] = [:]
        for path in paths {
            let file = folder.appendingPathComponent(path)
            let facts = try reading(file) { try manager.attributesOfItem(atPath: file.path) }
            switch facts[.type] as? FileAttributeType {
            case .typeDirectory: continue
            case .typeRegular: sizes[path] = (facts[.size] as? NSNumber)?.intValue ?? 0
            default:
                throw ElitEdgeError.bundle(
                    "\(file.path) is a link or a special file, and no bundle holds one; \(damaged)")
            }
        }
        return sizes
    }

    /// No file beyond the listed, none of the wanted missing, nothing that leads outside.
    private static func checkPaths(
        _ manifest: Manifest, in folder: URL, found: Set<String>, wanted: Set<String>
    ) throws {
        for name in manifest.files.keys where !isPlain(name) {
            throw ElitEdgeError.bundle(
                "\(folder.path): the manifest names \(name.debugDescription), no plain path inside it; \(damaged)")
        }
        let missing = wanted.subtracting(found).sorted()
        let foreign = found.subtracting(manifest.files.keys).subtracting([manifestFile]).sorted()
        let faults = [(missing, "missing"), (foreign, "not listed")].filter { !$0.0.isEmpty }
            .map { "\($0.0.joined(separator: " and ")) \($0.1)" }
        guard faults.isEmpty else {
            throw ElitEdgeError.bundle("\(folder.path): \(faults.joined(separator: ", ")); \(damaged)")
        }
    }

    private static func isPlain(_ path: String) -> Bool {
        let parts = path.split(separator: "/", omittingEmptySubsequences: false)
        return parts.allSatisfy { !$0.isEmpty && $0 != "." && $0 != ".." } && !path.contains("\\")
            && !path.unicodeScalars.contains("\0")
    }

    /// A file that cannot be read is a fault of the bundle.
    private static func reading<T>(_ file: URL, _ body: () throws -> T) throws -> T {
        do {
            return try body()
        } catch let error where !(error is ElitEdgeError) {
            throw ElitEdgeError.bundle("cannot read \(file.path): \(error.localizedDescription); \(damaged)")
        }
    }
}

extension Manifest {
    /// The files of a package, which is a folder of the bundle.
    fileprivate func filesBelow(_ package: String) -> [String] {
        files.keys.filter { $0.hasPrefix(package + "/") }
    }
}
