/// float16 by its bits: Intel Macs have no such type.
enum HalfPrecision {
    /// Every float16 is a float32.
    static func float(_ bits: UInt16) -> Float {
        let sign = UInt32(bits & 0x8000) << 16
        let exponent = UInt32(bits >> 10) & 0x1F
        let fraction = UInt32(bits & 0x3FF)
        switch exponent {
        case 0x1F: return Float(bitPattern: sign | 0x7F80_0000 | fraction << 13)
        case 0:
            let size = Float(fraction) * 0x1p-24
            return sign == 0 ? size : -size
        default: return Float(bitPattern: sign | (exponent + 112) << 23 | fraction << 13)
        }
    }

    /// The nearest float16, ties to the even one; beyond 65504 by half a step and more: infinite.
    static func bits(_ value: Float) -> UInt16 {
        let bits = value.bitPattern
        let sign = UInt16(truncatingIfNeeded: bits >> 16) & 0x8000
        let size = bits & 0x7FFF_FFFF
        if size >= 0x7F80_0000 {
            return sign | (value.isNaN ? 0x7E00 : 0x7C00)
        }
        if size >= 0x3880_0000 {  // 2^-14: no subnormal
            let rounded = size + 0xFFF + (size >> 13 & 1)
            return sign | UInt16(min((rounded >> 13) - (112 << 10), 0x7C00))
        }
        let units = Float(bitPattern: size) * 0x1p24
        return sign | UInt16(units.rounded(.toNearestOrEven))
    }
}
