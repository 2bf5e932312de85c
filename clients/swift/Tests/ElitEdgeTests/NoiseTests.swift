import XCTest

@testable import ElitEdge

final class NoiseTests: XCTestCase {
    private struct File: Decodable {
        struct Stream: Decodable {
            let seed: String
            let picture: UInt64
            let bits: [String]
        }
        struct Draw: Decodable {
            let seed: String
            let sizes: [Int]
            let numbers: [[Double]]
        }
        let streams: [Stream]
        let draws: [Draw]
    }

    func testBitsAreThoseOfNumpysPhilox() throws {
        for stream in try Golden.read("noise.json", as: File.self).streams {
            var philox = Philox(key: (UInt64(stream.seed, radix: 16)!, stream.picture))
            XCTAssertEqual(stream.bits.map { _ in philox.next() }, stream.bits.map { UInt64($0, radix: 16)! })
        }
    }

    func testBlocksOfTheAuthorsOwnTestVectors() {
        // Random123, kat_vectors, "philox4x64 10": all ones, and digits of pi
        let ones = UInt64.max
        XCTAssertEqual(
            Philox.block(counter: [ones, ones, ones, ones], key: (ones, ones)),
            [0x87b0_92c3_013f_e90b, 0x438c_3c67_be8d_0224, 0x9cc7_d7c6_9cd7_77b6, 0xa09c_aebf_594f_0ba0])
        XCTAssertEqual(
            Philox.block(
                counter: [0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344, 0xa409_3822_299f_31d0, 0x082e_fa98_ec4e_6c89],
                key: (0x4528_21e6_38d0_1377, 0xbe54_66cf_34e9_0c6c)),
            [0xa528_f454_03e6_1d95, 0x38c7_2dbd_566e_9788, 0xa5a1_610e_72fd_18b5, 0x57bd_43b5_e52b_7fe6])
    }

    func testDrawsFollowEachOther() throws {
        for draw in try Golden.read("noise.json", as: File.self).draws {
            var stream = NoiseStream(seed: UInt64(draw.seed, radix: 16)!, pictures: 2)
            for (size, numbers) in zip(draw.sizes, draw.numbers) {
                assertClose(stream.draw(size), numbers, within: 1e-14, "seed \(draw.seed), \(size) numbers")
            }
        }
    }

    func testAPictureHasItsNoiseAloneAndInABatch() {
        var one = NoiseStream(seed: 9, pictures: 1)
        var many = NoiseStream(seed: 9, pictures: 3)
        XCTAssertEqual(one.draw(10), Array(many.draw(10).prefix(10)))
    }
}
