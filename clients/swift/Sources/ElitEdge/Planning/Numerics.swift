import Foundation

/// Piecewise linear through (`xs`, `ys`), constant beyond their ends; `xs` ascends.
func interpolate(_ x: Double, _ xs: [Double], _ ys: [Double]) -> Double {
    let after = upperBound(xs, x)
    guard after > 0 else { return ys[0] }
    let at = after - 1
    if after == xs.count || xs[at] == x { return ys[at] }
    let slope = (ys[after] - ys[at]) / (xs[after] - xs[at])
    return slope * (x - xs[at]) + ys[at]
}

/// How many of the ascending `values` are at most `x`.
func upperBound(_ values: [Double], _ x: Double) -> Int {
    var low = 0
    var high = values.count
    while low < high {
        let middle = (low + high) / 2
        if values[middle] <= x { low = middle + 1 } else { high = middle }
    }
    return low
}

/// Each sum of the first values.
func runningSums(_ values: [Double]) -> [Double] {
    var sum = 0.0
    return values.map { value in
        sum += value
        return sum
    }
}

/// The sum in the order of numpy's, so that plans are the same to the last bit: eight lanes in blocks of at most 128.
func pairwiseSum(_ values: ArraySlice<Double>) -> Double {
    let count = values.count
    let first = values.startIndex
    if count < 8 { return values.reduce(0, +) }
    if count > 128 {
        let half = count / 2 - (count / 2) % 8
        return pairwiseSum(values.prefix(half)) + pairwiseSum(values.dropFirst(half))
    }
    var lanes = Array(values.prefix(8))
    let whole = count - count % 8
    for index in 8..<max(8, whole) { lanes[index % 8] += values[first + index] }
    let sum = ((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) + ((lanes[4] + lanes[5]) + (lanes[6] + lanes[7]))
    return values.dropFirst(whole).reduce(sum, +)
}

func pairwiseSum(_ values: [Double]) -> Double { pairwiseSum(values[...]) }

/// The differences of neighbours: one fewer than `values`.
func differences(_ values: [Double]) -> [Double] {
    zip(values.dropFirst(), values).map { $0 - $1 }
}

extension Sequence {
    /// In ascending order of a key; those with the same key stay in their order.
    func stablySorted(by isBefore: (Element, Element) -> Bool) -> [Element] {
        enumerated().sorted { a, b in
            if isBefore(a.element, b.element) { return true }
            return !isBefore(b.element, a.element) && a.offset < b.offset
        }.map(\.element)
    }
}

/// A number with so many digits after the point.
func fixed(_ value: Double, digits: Int) -> String {
    String(format: "%.\(digits)f", value)
}
