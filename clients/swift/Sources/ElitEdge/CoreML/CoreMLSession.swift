#if canImport(CoreML)
    import CoreML
    import Dispatch
    import Foundation

    /// A bundle's Core ML model, ready to compute at any budget.
    ///
    /// Each package is compiled once on a device, and a budget's function is loaded when it is first asked for, or in
    /// the background when it is foreseen. What Core ML holds for a loaded function is memory: at most `keep` velocity
    /// functions stay.
    public actor CoreMLSession: VelocityModel {
        /// The bundle's, with the ladder that the model has functions for.
        public nonisolated let manifest: Manifest
        public nonisolated let model: CoreMLModel

        private let files: BundleFiles
        private let units: ComputeUnits
        private let packages: CompiledPackages
        private let queue = DispatchQueue(label: "ElitEdge.CoreMLSession", qos: .userInitiated)
        private var compiled: [String: Task<URL, any Error>] = [:]
        /// Packages that this session compiled itself, and has not taken from the caches.
        private var fresh: Set<String> = []
        private var conditions: RecentlyUsed<CoreMLFunction, Task<LoadedFunction, any Error>>
        private var velocities: RecentlyUsed<CoreMLFunction, Task<LoadedFunction, any Error>>

        /// With fewer functions than these, one that is prepared would push out one in use: strong, weak, and the next.
        private static let leastToPrepare = 3

        /// Opens a model; its packages are compiled and its conditions loaded when this returns.
        ///
        /// - Parameters:
        ///   - files: opened whole, or for this model.
        ///   - model: nil takes the first that this system opens.
        ///   - units: nil takes what the layout is meant for.
        ///   - keep: velocity functions that stay loaded, at least 1.
        ///   - caches: where compiled packages are kept; nil takes the app's own caches folder.
        /// - Throws: `ElitEdgeError.unavailable`: no model that this system opens, or Core ML refuses a package;
        ///   `.bundle`: its files were not checked.
        public static func open(
            _ files: BundleFiles, model: CoreMLModel? = nil, units: ComputeUnits? = nil, keep: Int = 6,
            caches: URL? = nil
        ) async throws -> CoreMLSession {
            let model = try model ?? files.manifest.coreMLModel()
            let packages = try caches.map(CompiledPackages.init) ?? CompiledPackages.inCaches()
            let session = CoreMLSession(files, model, units ?? ComputeUnits(for: model.layout), keep, packages)
            for package in model.packages { _ = try await session.compiledPackage(package) }
            for function in model.functions(.condition) { _ = try await session.loaded(function) }
            return session
        }

        private init(
            _ files: BundleFiles, _ model: CoreMLModel, _ units: ComputeUnits, _ keep: Int, _ packages: CompiledPackages
        ) {
            (manifest, self.model, self.files, self.units) = (files.manifest.limited(to: model), model, files, units)
            self.packages = packages
            conditions = RecentlyUsed(capacity: model.functions(.condition).count)
            velocities = RecentlyUsed(capacity: keep)
        }

        public func condition(times: [Float], labels: [Int]) async throws -> [Float] {
            try await run(
                model.functions(.condition), rows: times.count,
                inputs: ["t": (times, 1), "y": (labels.map { Float($0) }, 1)], width: manifest.model.modulationSize)
        }

        public func velocity(x: [Float], modulations: [Float], latents: Int) async throws -> [Float] {
            let functions = model.functions(.velocity, latents: latents)
            guard !functions.isEmpty else {
                throw ElitEdgeError.request(
                    "latents = \(latents): the \(model.layout.rawValue) \(model.variant) Core ML model has "
                        + "\(model.budgets); compile the bundle for this budget too")
            }
            let size = manifest.model.sampleSize
            return try await run(
                functions, rows: x.count / size,
                inputs: ["x": (x, size), "modulations": (modulations, manifest.model.modulationSize)], width: size)
        }

        // not async of itself: without the word, calls from outside would go to the protocol's own, which does nothing
        public func prepare(latents: Int, samples: Int) async {
            guard velocities.capacity >= Self.leastToPrepare else { return }
            let functions = model.functions(.velocity, latents: latents)
            let batches = BatchChunks.chunks(of: samples, batches: functions.map(\.batch)).map(\.batch)
            for function in functions where batches.contains(function.batch) {
                _ = loading(function)
            }
        }

        /// Gives back all velocity functions, as on a memory warning; they are loaded again when they are asked for.
        public func unload() {
            velocities.removeAll()
        }

        /// Rows through functions of fixed batches. `inputs`: numbers and their count a row, by name.
        private func run(
            _ functions: [CoreMLFunction], rows: Int, inputs: [String: (numbers: [Float], width: Int)], width: Int
        ) async throws -> [Float] {
            for (name, input) in inputs where rows < 1 || input.numbers.count != rows * input.width {
                throw ElitEdgeError.request(
                    "\(name) has \(input.numbers.count) numbers; \(rows) rows of this model need \(rows * input.width)")
            }
            var made: [Float] = []
            made.reserveCapacity(rows * width)
            var first = 0
            for chunk in BatchChunks.chunks(of: rows, batches: functions.map(\.batch)) {
                guard let function = functions.first(where: { $0.batch == chunk.batch }) else { continue }
                let range = first..<first + chunk.samples
                let part = inputs.mapValues { Self.padded($0.numbers, $0.width, rows: range, to: chunk.batch) }
                let numbers = try await loaded(function).predict(part, on: queue)
                made += numbers.prefix(chunk.samples * width)
                first += chunk.samples
            }
            return made
        }

        /// Some rows, and the last of them again until they fill a batch.
        private static func padded(_ numbers: [Float], _ width: Int, rows: Range<Int>, to batch: Int) -> [Float] {
            let own = numbers[rows.lowerBound * width..<rows.upperBound * width]
            let last = own.suffix(width)
            return (rows.count..<batch).reduce(into: Array(own)) { all, _ in all += last }
        }

        private func loaded(_ function: CoreMLFunction) async throws -> LoadedFunction {
            do {
                return try await loading(function).value
            } catch {
                conditions.remove(function)
                velocities.remove(function)
                throw error
            }
        }

        private func loading(_ function: CoreMLFunction) -> Task<LoadedFunction, any Error> {
            let known = function.role == .condition ? conditions.value(for: function) : velocities.value(for: function)
            if let known { return known }
            let task = Task { try await self.load(function) }
            if function.role == .condition {
                conditions.insert(task, for: function)
            } else {
                velocities.insert(task, for: function)
            }
            return task
        }

        private func load(_ function: CoreMLFunction) async throws -> LoadedFunction {
            let units = units.of(function.role)
            let url = try await compiledPackage(function.package)
            let wasFresh = fresh.contains(function.package)
            do {
                return try await LoadedFunction.load(function, from: url, on: units)
            } catch let error where !(error is ElitEdgeError) {
                guard !wasFresh else { throw refused(function.package, error) }
            }
            // what the caches held may be damaged, or from another version of the system: compiled once more, by the
            // first function that meets it
            if fresh.insert(function.package).inserted {
                compiled[function.package] = nil
            }
            let again = try await compiledPackage(function.package)
            do {
                return try await LoadedFunction.load(function, from: again, on: units)
            } catch let error where !(error is ElitEdgeError) {
                throw refused(function.package, error)
            }
        }

        private func compiledPackage(_ package: String) async throws -> URL {
            if let known = compiled[package] { return try await known.value }
            let source = try files.url(ofPackage: package)
            let digest = files.digest(ofPackage: package)
            if !fresh.contains(package), let kept = packages.kept(digest) {
                compiled[package] = Task { kept }
                return kept
            }
            fresh.insert(package)
            let task = Task { [packages] in try await packages.compile(source, digest: digest) }
            compiled[package] = task
            do {
                return try await task.value
            } catch {
                compiled[package] = nil
                throw refused(package, error)
            }
        }

        private func refused(_ package: String, _ error: any Error) -> ElitEdgeError {
            .unavailable(
                "Core ML refuses \(package) of bundle \(manifest.name): \(error.localizedDescription); choose another "
                    + "of its Core ML models, or compile the bundle again")
        }
    }
#endif
