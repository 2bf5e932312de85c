#if canImport(CoreML)
    import CoreML
    import Dispatch
    import Foundation

    /// One function of a package, ready to compute. Its model is used on one queue alone.
    final class LoadedFunction: @unchecked Sendable {
        private let function: CoreMLFunction
        private let model: MLModel

        private init(_ function: CoreMLFunction, _ model: MLModel) {
            (self.function, self.model) = (function, model)
        }

        /// Opens a function of a compiled package: seconds, the first time on a device.
        ///
        /// - Throws: `ElitEdgeError.unavailable`: this system has no functions in packages. What Core ML says.
        static func load(_ function: CoreMLFunction, from compiled: URL, on units: MLComputeUnits) async throws
            -> LoadedFunction
        {
            try await Self.on(.global(qos: .utility)) {
                let configuration = MLModelConfiguration()
                configuration.computeUnits = units
                if let name = function.name {
                    guard #available(iOS 18.0, macOS 15.0, *) else {
                        throw ElitEdgeError.unavailable(
                            "\(name) is a function inside a package, which iOS 18 and macOS 15 open; compile the "
                                + "bundle for this system: elit-edge compile BUNDLE --target coreml --ios "
                                + "\(SystemVersion.ios)"
                        )
                    }
                    configuration.functionName = name
                }
                return LoadedFunction(function, try MLModel(contentsOf: compiled, configuration: configuration))
            }
        }

        /// Computes one batch.
        ///
        /// - Parameter inputs: by name, each as many numbers as its tensor has.
        /// - Returns: the output's numbers, row after row.
        func predict(_ inputs: [String: [Float]], on queue: DispatchQueue) async throws -> [Float] {
            try await Self.on(queue) { [self] in
                var arrays: [String: MLMultiArray] = [:]
                for spec in function.inputs {
                    arrays[spec.name] = try MultiArrays.array(spec, inputs[spec.name] ?? [])
                }
                let given = try MLDictionaryFeatureProvider(dictionary: arrays)
                let name = function.outputs[0].name
                guard let made = try model.prediction(from: given).featureValue(for: name)?.multiArrayValue else {
                    throw ElitEdgeError.unavailable(
                        "the Core ML function \(function.name ?? function.package) gave no \(name); compile the bundle "
                            + "again: elit-edge compile BUNDLE --target coreml")
                }
                let numbers = try MultiArrays.floats(made, name: name)
                guard numbers.count == function.outputs[0].count else {
                    throw ElitEdgeError.unavailable(
                        "the Core ML function \(function.name ?? function.package) gave \(numbers.count) numbers, the "
                            + "manifest says \(function.outputs[0].shape); compile the bundle again")
                }
                return numbers
            }
        }

        /// Runs on a queue what would block a thread of Swift's own pool.
        private static func on<T: Sendable>(
            _ queue: DispatchQueue, _ work: @escaping @Sendable () throws -> T
        ) async throws -> T {
            try await withCheckedThrowingContinuation { continuation in
                queue.async { continuation.resume(with: Result { try work() }) }
            }
        }
    }
#endif
