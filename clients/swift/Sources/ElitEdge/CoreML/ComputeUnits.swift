#if canImport(CoreML)
    import CoreML

    /// Where each role of a model may run.
    public struct ComputeUnits: Sendable {
        /// Label lookup and the vectors of a time: small work, best left to the CPU.
        public var condition: MLComputeUnits
        public var velocity: MLComputeUnits

        public init(condition: MLComputeUnits = .cpuOnly, velocity: MLComputeUnits) {
            (self.condition, self.velocity) = (condition, velocity)
        }

        /// What a layout is meant for, with the CPU for what the other unit does not take.
        public init(for layout: CoreMLModel.Layout) {
            self.init(velocity: layout == .ane ? .cpuAndNeuralEngine : .cpuAndGPU)
        }

        func of(_ role: CoreMLFunction.Role) -> MLComputeUnits {
            role == .condition ? condition : velocity
        }
    }
#endif
