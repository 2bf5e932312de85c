// swift-tools-version: 6.0
import PackageDescription

// Assembled by tools/swift/run.py: the library and a stand-in for Core ML, where there is none.
let package = Package(
    name: "Simulated",
    targets: [
        .target(name: "CoreML", path: "CoreML"),
        .target(name: "ElitEdge", dependencies: ["CoreML"], path: "ElitEdge"),
        .testTarget(
            name: "SimulatedTests", dependencies: ["ElitEdge", "CoreML"], path: "Tests",
            resources: [.copy("Golden")]),
    ]
)
