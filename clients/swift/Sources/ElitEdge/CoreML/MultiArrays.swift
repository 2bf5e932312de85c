#if canImport(CoreML)
    import CoreML
    import Foundation

    /// Flat float32 numbers as Core ML's tensors, and back; float16 by its bits.
    enum MultiArrays {
        /// A tensor of that description, filled.
        ///
        /// - Parameter numbers: as many as the tensor has, row after row.
        static func array(_ spec: TensorSpec, _ numbers: [Float]) throws -> MLMultiArray {
            let kind: MLMultiArrayDataType
            switch spec.dtype {
            case .float32: kind = .float32
            case .float16: kind = .float16
            case .int32: kind = .int32
            }
            let array = try MLMultiArray(shape: spec.shape.map { NSNumber(value: $0) }, dataType: kind)
            array.withUnsafeMutableBytes { bytes, strides in
                switch spec.dtype {
                case .float32: scatter(numbers, into: bytes.bindMemory(to: Float.self), spec.shape, strides) { $0 }
                case .float16:
                    scatter(numbers, into: bytes.bindMemory(to: UInt16.self), spec.shape, strides, HalfPrecision.bits)
                case .int32:
                    scatter(numbers, into: bytes.bindMemory(to: Int32.self), spec.shape, strides) { Int32($0) }
                }
            }
            return array
        }

        /// The numbers of a tensor, row after row, wherever they lie in memory.
        ///
        /// - Throws: `ElitEdgeError.unavailable`: it holds no floating-point numbers.
        static func floats(_ array: MLMultiArray, name: String) throws -> [Float] {
            let shape = array.shape.map(\.intValue)
            let strides = array.strides.map(\.intValue)
            let kind = array.dataType
            guard kind == .float32 || kind == .float16 else {
                throw ElitEdgeError.unavailable(
                    "Core ML gave \(name) in a type (\(kind.rawValue)) that is neither float32 nor float16; compile "
                        + "the bundle again: elit-edge compile BUNDLE --target coreml")
            }
            return array.withUnsafeBytes { bytes in
                kind == .float32
                    ? gather(bytes.bindMemory(to: Float.self), shape, strides) { $0 }
                    : gather(bytes.bindMemory(to: UInt16.self), shape, strides, HalfPrecision.float)
            }
        }

        private static func scatter<T>(
            _ numbers: [Float], into memory: UnsafeMutableBufferPointer<T>, _ shape: [Int], _ strides: [Int],
            _ convert: (Float) -> T
        ) {
            if StridedCopy.isContiguous(shape: shape, strides: strides) {
                for (index, number) in numbers.enumerated() { memory[index] = convert(number) }
            } else {
                for (offset, number) in zip(StridedCopy.offsets(shape: shape, strides: strides), numbers) {
                    memory[offset] = convert(number)
                }
            }
        }

        private static func gather<T>(
            _ memory: UnsafeBufferPointer<T>, _ shape: [Int], _ strides: [Int], _ convert: (T) -> Float
        ) -> [Float] {
            if StridedCopy.isContiguous(shape: shape, strides: strides) {
                return memory.prefix(shape.reduce(1, *)).map(convert)
            }
            return StridedCopy.offsets(shape: shape, strides: strides).map { convert(memory[$0]) }
        }
    }
#endif
