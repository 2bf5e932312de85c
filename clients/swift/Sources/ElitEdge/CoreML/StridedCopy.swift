/// Tensors whose rows may lie apart in memory, as Core ML's outputs do.
enum StridedCopy {
    /// Where each number of a tensor lies, in its own order, counted in numbers.
    ///
    /// - Parameters:
    ///   - shape: of the tensor; every size at least 1.
    ///   - strides: of each dimension, as many.
    static func offsets(shape: [Int], strides: [Int]) -> [Int] {
        zip(shape, strides).reduce([0]) { outer, dimension in
            outer.flatMap { begin in (0..<dimension.0).map { begin + $0 * dimension.1 } }
        }
    }

    /// Whether the numbers lie side by side, in their order; the stride of a single one is no matter.
    static func isContiguous(shape: [Int], strides: [Int]) -> Bool {
        var wanted = 1
        for (size, stride) in zip(shape, strides).reversed() {
            if size > 1, stride != wanted { return false }
            wanted *= size
        }
        return true
    }
}
