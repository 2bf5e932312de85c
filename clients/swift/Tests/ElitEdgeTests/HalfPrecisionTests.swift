import XCTest

@testable import ElitEdge

final class HalfPrecisionTests: XCTestCase {
    private struct File: Decodable {
        let pairs: [[String]]
        let floatsSha256: String
        let halvesSha256: String
    }

    func testNumbersRoundAsNumpyRoundsThem() throws {
        for pair in try Golden.read("half.json", as: File.self).pairs {
            let value = Float(bitPattern: UInt32(pair[0], radix: 16)!)
            XCTAssertEqual(HalfPrecision.bits(value), UInt16(pair[1], radix: 16)!, "\(value)")
        }
    }

    func testDigestsOverAllNumbers() throws {
        let file: File = try Golden.read("half.json")
        let floats = (0...UInt16.max).map(HalfPrecision.float).filter { !$0.isNaN }
        XCTAssertEqual(digest(floats.flatMap { bytes($0.bitPattern) }), file.floatsSha256)
        let comb = (0...UInt32(UInt16.max)).map { Float(bitPattern: $0 &* 65521) }.filter { !$0.isNaN }
        XCTAssertEqual(digest(comb.flatMap { bytes(HalfPrecision.bits($0)) }), file.halvesSha256)
    }

    func testWhatIsNoNumberStaysNone() {
        XCTAssertTrue(HalfPrecision.float(HalfPrecision.bits(.nan)).isNaN)
    }

    private func bytes<T: FixedWidthInteger>(_ word: T) -> [UInt8] {
        withUnsafeBytes(of: word.littleEndian) { Array($0) }
    }

    private func digest(_ bytes: [UInt8]) -> String {
        var hasher = PlainSHA256()
        bytes.withUnsafeBytes { hasher.update(bufferPointer: $0) }
        return hasher.finalize().map { String(format: "%02x", $0) }.joined()
    }
}
