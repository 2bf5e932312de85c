/// What pictures, within which bounds. nil: no bound of that kind; at least one must be given.
public struct Wish: Sendable, Equatable {
    public var batch: Int
    /// Different labels, the null class included where guidance needs it.
    public var classes: Int
    public var deadlineMs: Double?
    public var memoryBytes: Int?
    public var joules: Double?
    /// Guidance that the user insists on; no guidance at all is `GuidanceKind.none`, for `.none` alone is nil.
    public var guidance: GuidanceKind?
    /// Share of the full budget's FLOPs that a step may take, under thermal or battery pressure.
    public var cap: Double

    public init(
        batch: Int, classes: Int, deadlineMs: Double? = nil, memoryBytes: Int? = nil, joules: Double? = nil,
        guidance: GuidanceKind? = nil, cap: Double = 1
    ) {
        (self.batch, self.classes, self.guidance, self.cap) = (batch, classes, guidance, cap)
        (self.deadlineMs, self.memoryBytes, self.joules) = (deadlineMs, memoryBytes, joules)
    }

    func check() throws {
        let bounds = [deadlineMs, memoryBytes.map(Double.init), joules].compactMap { $0 }
        guard !bounds.isEmpty else {
            throw PlanError.plan("a plan needs a bound: a deadline, memory or energy", nearest: nil)
        }
        guard bounds.allSatisfy({ $0 > 0 }) else {  // a bound that is no number is not, either
            throw PlanError.plan("bounds \(bounds): each must be a number above 0", nearest: nil)
        }
        guard batch > 0, classes > 0 else {
            throw ElitEdgeError.request("\(batch) pictures of \(classes) classes; at least one of each is needed")
        }
    }
}
