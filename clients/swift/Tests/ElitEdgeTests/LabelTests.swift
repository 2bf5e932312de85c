import XCTest

@testable import ElitEdge

final class LabelTests: XCTestCase {
    private struct File: Decodable {
        struct Case: Decodable {
            let wanted: String
            let number: Int?
            let means: String?
        }

        let names: [String]
        let cases: [Case]
    }

    func testLabelsAreThoseOfThePythonPackage() throws {
        let file: File = try Golden.read("labels.json")
        let names = ClassNames(names: file.names)
        for wanted in file.cases {
            if let number = wanted.number {
                XCTAssertEqual(try names.find(wanted.wanted), number, wanted.wanted)
            } else if let means = wanted.means {
                assertRefused("label \(wanted.wanted) means \(means)") { try names.find(wanted.wanted) }
            } else {
                assertRefused("unknown label \(wanted.wanted);") { try names.find(wanted.wanted) }
            }
        }
    }

    func testAMissNamesAFew() {
        let names = ClassNames(names: (0..<1000).map { "red thing \($0), Ding \($0)" })
        assertRefused(
            "unknown label thing; nearest: red thing 0 (0), red thing 1 (1), red thing 2 (2), red thing 3 (3), "
                + "red thing 4 (4); or a number from 0 to 999"
        ) { try names.find("thing") }
        assertRefused("nearest: red thing 999 (999); or") { try names.find("G 999") }
        assertRefused("nearest: red thing 77 (77), red thing 770 (770), ") { try names.find("THING 77") }
        assertRefused("give one of the 1000 names; or a number") { try names.find("moon") }
        assertRefused("give one of the 1000 names; or a number") { try names.find("") }
    }

    func testANameOfManyClasses() {
        let names = ClassNames(names: (0..<1000).map { "thing, Ding \($0)" })
        assertRefused("means 1000 classes: 0 (thing, Ding 0); 1 (thing, Ding 1); ", "; and 995 more; give a number") {
            try names.find("thing")
        }
    }
}
