import Foundation

/// Classes by name. A class has one string, and its synonyms stand inside it: "tench, Tinca tinca".
struct ClassNames {
    /// So many names are listed whole in a message; of more, a few.
    private static let few = 12
    private static let nearest = 5

    let names: [String]

    /// The one class that bears a name: as its whole name, else as its whole name or a synonym in any case.
    ///
    /// - Throws: `ElitEdgeError.request`: no class is meant, or several are.
    func find(_ name: String) throws -> Int {
        let whole = names.indices.filter { names[$0] == name }
        if whole.count == 1 { return whole[0] }
        let asked = name.lowercased()
        let meant = names.indices.filter { Self.forms(names[$0]).contains(asked) }
        if meant.count == 1 { return meant[0] }
        guard meant.isEmpty else {
            let each = meant.prefix(Self.nearest).map { "\($0) (\(names[$0]))" }.joined(separator: "; ")
            let more = meant.count > Self.nearest ? "; and \(meant.count - Self.nearest) more" : ""
            throw ElitEdgeError.request(
                "label \(name) means \(meant.count) classes: \(each)\(more); give a number or another name")
        }
        throw ElitEdgeError.request("unknown label \(name); \(advice(asked)); or a number from 0 to \(names.count - 1)")
    }

    /// The whole name and the synonyms, in lower case.
    private static func forms(_ name: String) -> [String] {
        let whole = name.lowercased()
        return [whole] + whole.components(separatedBy: ", ")
    }

    private static func first(_ name: String) -> String { name.components(separatedBy: ", ")[0] }

    private func advice(_ asked: String) -> String {
        if names.count <= Self.few { return "one of: \(names.map(Self.first).joined(separator: ", "))" }
        let near = near(asked).map { "\(Self.first(names[$0])) (\($0))" }
        return near.isEmpty ? "give one of the \(names.count) names" : "nearest: \(near.joined(separator: ", "))"
    }

    /// A few classes with what was asked for among their words, then with it as any part. Misspellings are not sought.
    private func near(_ asked: String) -> [Int] {
        guard !asked.allSatisfy(\.isWhitespace) else { return [] }
        let words = names.indices.filter { index in
            Self.forms(names[index]).contains { " \($0) ".contains(" \(asked) ") }
        }
        let parts = names.indices.filter { !words.contains($0) && names[$0].lowercased().contains(asked) }
        return Array((words + parts).prefix(Self.nearest))
    }
}
