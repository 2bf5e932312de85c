import Foundation

/// The system's version, by the numbers that Core ML packages are made for.
public enum SystemVersion {
    /// The version of iOS whose Core ML this system has: macOS 13, 14 and 15 are iOS 16, 17 and 18; from 26 they agree.
    public static var ios: Int {
        let major = ProcessInfo.processInfo.operatingSystemVersion.majorVersion
        #if os(macOS)
            return iosLikeMacOS(major)
        #else
            return major
        #endif
    }

    static func iosLikeMacOS(_ major: Int) -> Int { major < 26 ? min(major + 3, 18) : major }
}
