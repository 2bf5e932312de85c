/// What was promised and what came of it.
public struct DeadlineReport: Sendable, Equatable {
    /// One time that the governor left its plan.
    public struct Change: Sendable, Equatable {
        /// Steps done before it.
        public let step: Int
        /// Since the governor began.
        public let atMs: Double
        public let why: String
        public let stepsLeft: Int
        /// The budgets of the steps left, as planned now.
        public let latents: [Int]
        public let weakLatents: Int
    }

    public let plan: Plan
    public let deadlineMs: Double
    /// From the beginning of the run until its pictures were ready.
    public let elapsedMs: Double
    /// Each time that the governor left the plan.
    public let changes: [Change]
    /// Whether the run ended early, on the picture that its last step predicted.
    public let landed: Bool
    /// Expected distance of what was really run to the reference plan's pictures, read from the quality table.
    public let distance: Double
    /// Time that watching and planning again took.
    public let governorMs: Double

    public var kept: Bool { elapsedMs <= deadlineMs }
}
