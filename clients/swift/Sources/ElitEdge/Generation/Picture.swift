/// A finished picture or a preview.
public struct Picture: Equatable, Sendable {
    /// S: pixels a side.
    public let side: Int
    /// [S, S, 4]: red, green, blue and an alpha of 255.
    public let rgba: [UInt8]

    /// The pictures of samples in [-1, 1]; nil where the model's samples are not pixels.
    ///
    /// - Parameter samples: [B, C, S, S], C being 1 or 3.
    static func pictures(of samples: [Double], _ manifest: Manifest) -> [Picture]? {
        let model = manifest.model
        guard manifest.sampleSpace == .pixels else { return nil }
        let area = model.imageSize * model.imageSize
        return stride(from: 0, to: samples.count, by: model.sampleSize).map { begin in
            var rgba = [UInt8](repeating: 255, count: 4 * area)
            for channel in 0..<3 {
                let plane = begin + min(channel, model.inChannels - 1) * area
                for pixel in 0..<area {
                    rgba[4 * pixel + channel] = level(samples[plane + pixel])
                }
            }
            return Picture(side: model.imageSize, rgba: rgba)
        }
    }

    /// -1...1 as 0...255, halves to the even level.
    private static func level(_ value: Double) -> UInt8 {
        UInt8(min(max(((value + 1) * 127.5).rounded(.toNearestOrEven), 0), 255))
    }
}

#if canImport(CoreGraphics)
    import CoreGraphics
    import Foundation

    extension Picture {
        /// The picture for a view; nil only where the system has no memory for it.
        public var cgImage: CGImage? {
            guard let provider = CGDataProvider(data: Data(rgba) as CFData) else { return nil }
            return CGImage(
                width: side, height: side, bitsPerComponent: 8, bitsPerPixel: 32, bytesPerRow: 4 * side,
                space: CGColorSpaceCreateDeviceRGB(),
                bitmapInfo: CGBitmapInfo(rawValue: CGImageAlphaInfo.noneSkipLast.rawValue), provider: provider,
                decode: nil, shouldInterpolate: true, intent: .defaultIntent)
        }
    }
#endif
