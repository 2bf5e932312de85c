// swift-tools-version: 6.0
import PackageDescription

let package = Package(
    name: "ElitEdge",
    platforms: [.iOS(.v16), .macOS(.v13)],
    products: [.library(name: "ElitEdge", targets: ["ElitEdge"])],
    targets: [
        .target(name: "ElitEdge"),
        .testTarget(name: "ElitEdgeTests", dependencies: ["ElitEdge"], resources: [.copy("Golden")]),
    ]
)
