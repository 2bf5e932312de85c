/// The share of the full budget's FLOPs that the device should carry now, 0...1, and why it is less than 1.
public typealias SustainableShare = @Sendable () -> (share: Double, why: String)

/// How soon the device will slow down: `warm` is near, `hot` is now.
public enum Pressure: Sendable {
    case none, warm, hot

    /// Of the full budget's FLOPs that a step may take, before the device has to slow down by itself.
    var share: Double {
        switch self {
        case .none: return 1
        case .warm: return 0.7
        case .hot: return 0.4
        }
    }

    /// The share at the worst of some pressures, and the reasons of all.
    static func share(of found: [(level: Pressure, why: String)]) -> (share: Double, why: String) {
        let pressing = found.filter { $0.level != .none }
        return (pressing.map(\.level.share).min() ?? 1, pressing.map(\.why).joined(separator: "; "))
    }
}

#if canImport(Darwin)
    import Foundation

    extension Pressure {
        /// What `generate` takes as pressure on Apple's devices: the thermal state and the low-power mode.
        public static let sustainableShare: SustainableShare = {
            let process = ProcessInfo.processInfo
            let thermal: (Pressure, String)
            switch process.thermalState {
            case .nominal: thermal = (.none, "")
            case .fair: thermal = (.warm, "thermal state fair")
            case .serious: thermal = (.hot, "thermal state serious")
            case .critical: thermal = (.hot, "thermal state critical")
            @unknown default: thermal = (.hot, "a thermal state that this version does not know")
            }
            let saving = process.isLowPowerModeEnabled
            return Pressure.share(of: [thermal, (saving ? .warm : .none, "low-power mode")])
        }
    }
#endif
