import XCTest

@testable import ElitEdge

/// What the Core ML part does that needs no Core ML.
final class BatchTests: XCTestCase {
    func testSamplesGoThroughTheLargestBatchesThatTheyFill() {
        let cases: [(Int, [Int], [[Int]])] = [
            (1, [1, 2], [[1, 1]]),
            (5, [2, 1], [[2, 2], [2, 2], [1, 1]]),
            (3, [2], [[2, 2], [1, 2]]),
            (3, [4, 8], [[3, 4]]),
            (0, [1], []),
        ]
        for (count, batches, wanted) in cases {
            let chunks = BatchChunks.chunks(of: count, batches: batches)
            XCTAssertEqual(chunks.map { [$0.samples, $0.batch] }, wanted)
        }
    }

    func testNumbersOfATensorWhoseRowsLieApart() {
        XCTAssertEqual(StridedCopy.offsets(shape: [2, 3], strides: [3, 1]), [0, 1, 2, 3, 4, 5])
        XCTAssertEqual(StridedCopy.offsets(shape: [2, 3], strides: [32, 1]), [0, 1, 2, 32, 33, 34])
        XCTAssertEqual(StridedCopy.offsets(shape: [1, 3, 1, 1], strides: [96, 32, 32, 1]), [0, 32, 64])
        XCTAssertTrue(StridedCopy.isContiguous(shape: [2, 3], strides: [3, 1]))
        XCTAssertTrue(StridedCopy.isContiguous(shape: [1, 3, 1, 1], strides: [96, 1, 32, 7]))
        XCTAssertFalse(StridedCopy.isContiguous(shape: [2, 3], strides: [32, 1]))
        XCTAssertFalse(StridedCopy.isContiguous(shape: [1, 3, 1, 1], strides: [96, 32, 32, 1]))
    }

    func testWhatWasNotAskedForLongestGoesFirst() {
        var memory = RecentlyUsed<String, Int>(capacity: 2)
        memory.insert(1, for: "a")
        memory.insert(2, for: "b")
        XCTAssertEqual(memory.value(for: "a"), 1)
        memory.insert(3, for: "c")
        XCTAssertNil(memory.value(for: "b"))
        XCTAssertEqual(memory.keys, ["a", "c"])
        memory.remove("a")
        XCTAssertNil(memory.value(for: "a"))
        memory.removeAll()
        XCTAssertEqual(memory.keys, [])
        XCTAssertEqual(RecentlyUsed<String, Int>(capacity: 0).capacity, 1)
    }
}
