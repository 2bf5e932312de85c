#if canImport(CoreML)
    import CoreML
    import Foundation

    /// Packages as the device compiled them: once for each content, in the app's caches.
    struct CompiledPackages: Sendable {
        let folder: URL

        /// - Throws: `ElitEdgeError.unavailable`: the app has no folder for caches.
        static func inCaches() throws -> CompiledPackages {
            guard let caches = FileManager.default.urls(for: .cachesDirectory, in: .userDomainMask).first else {
                throw ElitEdgeError.unavailable("this app has no caches folder to keep compiled Core ML packages in")
            }
            return CompiledPackages(folder: caches.appendingPathComponent("ElitEdge", isDirectory: true))
        }

        /// The package of that digest, if it was compiled before.
        func kept(_ digest: String) -> URL? {
            let target = place(digest)
            return FileManager.default.fileExists(atPath: target.path) ? target : nil
        }

        /// Compiles a package and keeps it; an older result is replaced.
        ///
        /// - Throws: what Core ML says.
        func compile(_ package: URL, digest: String) async throws -> URL {
            let fresh = try await MLModel.compileModel(at: package)
            let manager = FileManager.default
            try manager.createDirectory(at: folder, withIntermediateDirectories: true)
            // moving between volumes copies: what is interrupted must not stand under the final name
            let part = folder.appendingPathComponent("\(UUID().uuidString).part", isDirectory: true)
            try manager.moveItem(at: fresh, to: part)
            let target = place(digest)
            if manager.fileExists(atPath: target.path) {
                try manager.removeItem(at: target)
            }
            try manager.moveItem(at: part, to: target)
            return target
        }

        private func place(_ digest: String) -> URL {
            folder.appendingPathComponent("\(digest).mlmodelc", isDirectory: true)
        }
    }
#endif
