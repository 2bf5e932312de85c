import Foundation

#if canImport(CryptoKit)
    import CryptoKit

    private typealias Hasher = CryptoKit.SHA256
#else
    private typealias Hasher = PlainSHA256
#endif

/// SHA-256 as the manifest writes it: 64 hexadecimal digits.
enum FileDigest {
    private static let chunkBytes = 1 << 20

    /// Of a file, read in pieces.
    static func of(file: URL) throws -> String {
        guard let stream = InputStream(url: file) else { throw CocoaError(.fileReadUnknown) }
        stream.open()
        defer { stream.close() }
        var hasher = Hasher()
        var chunk = [UInt8](repeating: 0, count: chunkBytes)
        while true {
            let count = stream.read(&chunk, maxLength: chunkBytes)
            guard count >= 0 else { throw stream.streamError ?? CocoaError(.fileReadUnknown) }
            if count == 0 { break }
            chunk.withUnsafeBytes { hasher.update(bufferPointer: UnsafeRawBufferPointer(rebasing: $0[..<count])) }
        }
        return hexadecimal(hasher.finalize())
    }

    /// Of a text's UTF-8.
    static func of(text: String) -> String {
        var hasher = Hasher()
        Array(text.utf8).withUnsafeBytes { hasher.update(bufferPointer: $0) }
        return hexadecimal(hasher.finalize())
    }

    private static func hexadecimal(_ bytes: some Sequence<UInt8>) -> String {
        bytes.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
    }
}
