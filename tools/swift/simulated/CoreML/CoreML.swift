// A stand-in for Core ML, with the declarations that ElitEdge uses and none beside them. It proves that the code which
// is compiled only where there is Core ML is sound Swift, and what it does around its calls; it proves nothing about
// Core ML itself. Signatures follow Apple's documentation of macOS 15.

import Foundation

public enum MLComputeUnits: Int, Sendable {
    case cpuOnly = 0
    case cpuAndGPU = 1
    case all = 2
    case cpuAndNeuralEngine = 3
}

open class MLModelConfiguration: NSObject {
    open var computeUnits: MLComputeUnits = .all
    @available(macOS 15.0, iOS 18.0, *)
    open var functionName: String?
}

public enum MLMultiArrayDataType: Int, Sendable {
    case double = 65600
    case float32 = 65568
    case float16 = 65552
    case int32 = 131104

    var bytes: Int { self == .double ? 8 : self == .float16 ? 2 : 4 }
}

open class MLMultiArray: NSObject {
    public let shape: [NSNumber]
    public let strides: [NSNumber]
    public let dataType: MLMultiArrayDataType
    private let memory: UnsafeMutableRawBufferPointer

    public convenience init(shape: [NSNumber], dataType: MLMultiArrayDataType) throws {
        let sizes = shape.map(\.intValue)
        let strides = sizes.indices.map { sizes[($0 + 1)...].reduce(1, *) }
        self.init(shape: sizes, dataType: dataType, strides: strides)
    }

    /// Not of Core ML: an array as it may come out of a model, with room between its rows.
    public init(shape: [Int], dataType: MLMultiArrayDataType, strides: [Int]) {
        (self.shape, self.strides) = (shape.map { NSNumber(value: $0) }, strides.map { NSNumber(value: $0) })
        self.dataType = dataType
        let last = zip(shape, strides).reduce(0) { $0 + ($1.0 - 1) * $1.1 }
        memory = .allocate(byteCount: (last + 1) * dataType.bytes, alignment: 16)
        memory.initializeMemory(as: UInt8.self, repeating: 0xEE)
    }

    deinit { memory.deallocate() }

    public func withUnsafeBytes<R>(_ body: (UnsafeRawBufferPointer) throws -> R) rethrows -> R {
        try body(UnsafeRawBufferPointer(memory))
    }

    public func withUnsafeMutableBytes<R>(
        _ body: (UnsafeMutableRawBufferPointer, [Int]) throws -> R
    ) rethrows -> R {
        try body(memory, strides.map(\.intValue))
    }
}

open class MLFeatureValue: NSObject {
    public let multiArrayValue: MLMultiArray?

    public init(multiArray value: MLMultiArray) {
        multiArrayValue = value
    }
}

public protocol MLFeatureProvider {
    var featureNames: Set<String> { get }
    func featureValue(for featureName: String) -> MLFeatureValue?
}

open class MLDictionaryFeatureProvider: NSObject, MLFeatureProvider {
    private let values: [String: MLFeatureValue]

    public init(dictionary: [String: Any]) throws {
        values = dictionary.compactMapValues { ($0 as? MLMultiArray).map(MLFeatureValue.init(multiArray:)) }
    }

    public var featureNames: Set<String> { Set(values.keys) }

    public func featureValue(for featureName: String) -> MLFeatureValue? { values[featureName] }
}

open class MLModel: NSObject {
    private let url: URL
    private let configuration: MLModelConfiguration

    public init(contentsOf url: URL, configuration: MLModelConfiguration) throws {
        (self.url, self.configuration) = (url, configuration)
        super.init()
        try Simulated.current.load(url, configuration)
    }

    open class func compileModel(at modelURL: URL) async throws -> URL {
        try Simulated.current.compile(modelURL)
    }

    open func prediction(from input: any MLFeatureProvider) throws -> any MLFeatureProvider {
        try Simulated.current.predict(url, configuration, input)
    }
}
