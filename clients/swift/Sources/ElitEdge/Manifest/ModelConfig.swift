/// What a model is, in numbers.
public struct ModelConfig: Codable, Equatable, Sendable {
    public enum Architecture: String, Codable, Sendable {
        case elitSiT = "elit-sit"
        /// A plain SiT: no latents; it counts as one latent a group, one budget.
        case sit
    }

    public let architecture: Architecture
    /// S: side of the sample in its own pixels (latent pixels for a latent-space model).
    public let imageSize: Int
    /// C.
    public let inChannels: Int
    public let patchSize: Int
    public let hiddenSize: Int
    public let headDepth: Int
    public let coreDepth: Int
    public let tailDepth: Int
    /// g: a group is a g x g square of tokens, and holds g² latents.
    public let groupSize: Int
    /// Classes without the null class, whose label is `numClasses`.
    public let numClasses: Int
    public let classNames: [String]?

    /// P: the full budget.
    public var latentsPerGroup: Int { groupSize * groupSize }

    /// The label of the unconditional class.
    public var nullLabel: Int { numClasses }

    /// Numbers of one sample: C · S · S.
    public var sampleSize: Int { inChannels * imageSize * imageSize }

    /// M: numbers that depend on (t, y) alone, for one sample.
    public var modulationSize: Int {
        let read = architecture == .elitSiT ? 6 : 0
        return hiddenSize * (6 * (headDepth + coreDepth + tailDepth) + read + 2)
    }

    /// Beyond it a size is damage: no product of sizes overflows below it.
    private static let largest = 1 << 16

    /// What is wrong with these numbers; empty where nothing is.
    var faults: [String] {
        let positive = [
            ("image_size", imageSize), ("in_channels", inChannels), ("patch_size", patchSize),
            ("hidden_size", hiddenSize), ("group_size", groupSize), ("num_classes", numClasses),
        ]
        let counts = [("head_depth", headDepth), ("core_depth", coreDepth), ("tail_depth", tailDepth)]
        var found = positive.filter { !(1...Self.largest).contains($0.1) }
        found += counts.filter { !(0...Self.largest).contains($0.1) }
        guard found.isEmpty else { return found.map { "model.\($0.0) is \($0.1)" } }
        var faults: [String] = []
        let side = imageSize / patchSize
        if imageSize % patchSize != 0 || side % groupSize != 0 {
            faults.append("model: \(imageSize) pixels a side in patches of \(patchSize) and groups of \(groupSize)")
        }
        if let classNames, classNames.count != numClasses {
            faults.append("model: \(classNames.count) class_names for num_classes \(numClasses)")
        }
        return faults
    }
}
