import Foundation

/// How the JSON of bundles is read: `weak_latents` there is `weakLatents` here, without a list of names.
enum BundleJSON {
    /// Reads one value.
    ///
    /// - Throws: `ElitEdgeError.bundle`, with the field that is missing or wrong.
    static func decode<T: Decodable>(_ type: T.Type, from data: Data, source: String) throws -> T {
        let decoder = JSONDecoder()
        decoder.keyDecodingStrategy = .convertFromSnakeCase
        do {
            return try decoder.decode(type, from: data)
        } catch let error as DecodingError {
            throw ElitEdgeError.bundle("\(source): \(describe(error)); export the bundle again")
        }
    }

    private static func describe(_ error: DecodingError) -> String {
        switch error {
        case .keyNotFound(let key, let context):
            return "no field \(key.stringValue) in \(place(context))"
        case .typeMismatch(_, let context), .valueNotFound(_, let context), .dataCorrupted(let context):
            return "\(place(context)): \(context.debugDescription)"
        @unknown default:
            return String(describing: error)
        }
    }

    private static func place(_ context: DecodingError.Context) -> String {
        let path = context.codingPath.map { $0.intValue.map(String.init) ?? $0.stringValue }
        return path.isEmpty ? "the whole" : path.joined(separator: ".")
    }
}
