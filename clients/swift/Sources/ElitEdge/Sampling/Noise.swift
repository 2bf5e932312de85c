import Foundation

/// Normal numbers for the pictures of one run: picture i draws from a stream of its own, whatever the others do.
/// The same seed gives the same numbers here and in the Python package.
public struct NoiseStream: Sendable {
    private var streams: [Philox]

    /// Pictures that draw.
    public var pictures: Int { streams.count }

    public init(seed: UInt64, pictures: Int) {
        streams = (0..<pictures).map { Philox(key: (seed, UInt64($0))) }
    }

    /// The next standard normal numbers of every picture: [pictures, size], picture after picture.
    public mutating func draw(_ size: Int) -> [Double] {
        streams.indices.flatMap { streams[$0].normal(size) }
    }
}

/// Counter-based random bits, Philox-4x64 with ten rounds, in the order in which numpy gives them.
///
/// Source: D. E. Shaw Research, "Parallel random numbers: as easy as 1, 2, 3", 2011.
struct Philox: Sendable {
    private let key: (UInt64, UInt64)
    /// The lower half; the upper one stays 0 for more blocks than anybody draws.
    private var counter: UInt64 = 0
    private var block: [UInt64] = []
    private var used = 0

    init(key: (UInt64, UInt64)) {
        self.key = key
    }

    /// The next 64 bits.
    mutating func next() -> UInt64 {
        if used == block.count {
            counter += 1  // before the first block too, as numpy does
            block = Self.block(counter: [counter, 0, 0, 0], key: key)
            used = 0
        }
        defer { used += 1 }
        return block[used]
    }

    /// Standard normal numbers by the Box-Muller transform; an odd size leaves the second of its last pair unused.
    mutating func normal(_ size: Int) -> [Double] {
        let pairs = (size + 1) / 2
        var uniform: [Double] = []
        uniform.reserveCapacity(2 * pairs)
        for _ in 0..<2 * pairs {
            uniform.append((Double(next() >> 11) + 0.5) * 0x1p-53)
        }
        let radius = uniform[..<pairs].map { (-2 * log($0)).squareRoot() }
        let angle = uniform[pairs...].map { 2 * Double.pi * $0 }
        let both = zip(radius, angle).map { $0 * cos($1) } + zip(radius, angle).map { $0 * sin($1) }
        return Array(both.prefix(size))
    }

    /// The four words of a counter, lowest first.
    static func block(counter: [UInt64], key: (UInt64, UInt64)) -> [UInt64] {
        var (a, b, c, d) = (counter[0], counter[1], counter[2], counter[3])
        var (left, right) = key
        for _ in 0..<10 {
            let first = a.multipliedFullWidth(by: 0xD2E7_470E_E14C_6C93)
            let second = c.multipliedFullWidth(by: 0xCA5A_8263_9512_1157)
            (a, b, c, d) = (second.high ^ b ^ left, second.low, first.high ^ d ^ right, first.low)
            left &+= 0x9E37_79B9_7F4A_7C15
            right &+= 0xBB67_AE85_84CA_A73B
        }
        return [a, b, c, d]
    }
}
