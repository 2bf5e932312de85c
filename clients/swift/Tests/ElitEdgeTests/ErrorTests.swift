import ElitEdge
import XCTest

final class ErrorTests: XCTestCase {
    func testAnErrorShowsItsMessage() {
        let error: Error = ElitEdgeError.bundle("damaged; copy it again")
        XCTAssertEqual(error.localizedDescription, "damaged; copy it again")
    }
}
