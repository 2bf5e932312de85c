/// Times that each point should be measured.
private let rounds = 7
private let leastRounds = 2
private let checks = 5
/// With less time than this, nothing is measured that needs pauses.
private let unhurriedSeconds = 1.0
private let conditionRows = [2, 64]

extension Profile {
    /// Time that the passes of one profile may take, where a single pass is not longer than that.
    public static let measuringSeconds = 1.5

    /// Measure a model on this device: a few passes at a few budgets and batches, enough to predict the rest (`Costs`).
    ///
    /// - Parameters:
    ///   - model: it computes on noise.
    ///   - runtime: names it in plans: "coreml".
    ///   - precision: how its numbers are stored: "fp16", "int8".
    ///   - version: of the runtime.
    ///   - openMs: what opening it took.
    ///   - seconds: time for the passes; a model whose passes are slower than that is measured at its least and its
    ///     full budget alone.
    ///   - clock: seconds, monotonic.
    /// - Returns: the profile; its memory is the peak of this process. It has no power, which Apple's devices do not
    ///   tell.
    public static func measure(
        _ model: some VelocityModel, runtime: String, precision: String, version: String, openMs: Double = 0,
        seconds: Double = measuringSeconds, clock: @escaping SecondsClock = monotonicSeconds
    ) async throws -> Profile {
        let work = try await MeasuredWork(model, clock)
        var conditions: [Conditions] = []
        for rows in conditionRows {
            _ = try await work.conditionMs(rows)
            let ms = try await repeated(3) { try await work.conditionMs(rows) }
            conditions.append(Conditions(rows: rows, medianMs: median(ms)))
        }
        let budgets = Array(Set(model.manifest.budgets)).sorted()
        let (shapes, firstMs) = try await affordable(work, budgets, seconds)
        let memory = try await peaks(work, budgets[budgets.count - 1], shapes.map(\.batch).max() ?? 1)
        var table: [[Double]] = []
        let begun = clock()
        while table.count < leastRounds || (table.count < rounds && clock() - begun < seconds) {
            var row: [Double] = []
            for shape in shapes { row.append(try await work.passMs(shape)) }
            table.append(row)
        }
        let columns = shapes.indices.map { index in table.map { $0[index] } }
        let points = shapes.indices.map { index in
            Point(
                latents: shapes[index].latents, batch: shapes[index].batch, firstMs: firstMs[index],
                medianMs: median(columns[index]), p90Ms: quantile(columns[index], 0.9), n: table.count)
        }
        let ofRounds = table.map { row in median(zip(row, points).map { $0 / $1.medianMs }) }
        let wakingMs = seconds >= unhurriedSeconds ? try await measuredWakingMs(work, budgets[0]) : 0
        return Profile(
            runtime: runtime, precision: precision, version: version, threads: nil, openMs: openMs, points: points,
            conditions: conditions, solverMs: median((0..<rounds).map { _ in work.solverMs() }), wakingMs: wakingMs,
            drift: deviation(ofRounds), memory: memory, watts: nil)
    }
}

extension Costs {
    /// How much longer a pass takes now than the profile says: a few passes at half the budget, the first of them cold.
    ///
    /// - Returns: measured over predicted time; nil where that is not worth `spareMs`.
    public func spotCheck(
        _ model: some VelocityModel, spareMs: Double, clock: @escaping SecondsClock = monotonicSeconds
    ) async throws -> Double? {
        let budgets = model.manifest.budgets
        let half = MeasuredShape(latents: budgets[budgets.count / 2], batch: 1)
        let predicted = passMs(latents: half.latents, batch: 1)
        guard predicted * Double(checks + 2) <= spareMs else { return nil }
        let work = try await MeasuredWork(model, clock)
        _ = try await work.passMs(half)
        return median(try await repeated(checks) { try await work.passMs(half) }) / predicted
    }
}

/// How much longer a pass takes after a pause.
private func measuredWakingMs(_ work: MeasuredWork<some VelocityModel>, _ latents: Int) async throws -> Double {
    let shape = MeasuredShape(latents: latents, batch: 1)
    let found = try await repeated(checks) {
        try await Task.sleep(for: .milliseconds(100))
        let cold = try await work.passMs(shape)
        return cold - (try await work.passMs(shape))
    }
    return max(0, median(found))
}

/// The points that fit the time, as many times as they should be measured; and the first pass of each.
private func affordable(
    _ work: MeasuredWork<some VelocityModel>, _ budgets: [Int], _ seconds: Double
) async throws -> (shapes: [MeasuredShape], firstMs: [Double]) {
    var shapes: [MeasuredShape] = []
    var firstMs: [Double] = []
    var spent = 0.0
    for shape in MeasuredShape.byImportance(budgets) {
        if shapes.count >= min(budgets.count, 2), spent >= seconds * 1e3 { break }
        firstMs.append(try await work.passMs(shape))
        spent += Double(rounds) * (try await work.passMs(shape))
        shapes.append(shape)
    }
    return (shapes, firstMs)
}

/// The peak of this process after one sample and after the largest batch that is affordable.
private func peaks(
    _ work: MeasuredWork<some VelocityModel>, _ latents: Int, _ batch: Int
) async throws -> [Profile.Memory] {
    var found: [Profile.Memory] = []
    for size in Set([1, batch]).sorted() {
        _ = try await work.passMs(MeasuredShape(latents: latents, batch: size))
        if let peak = peakBytes() { found.append(Profile.Memory(batch: size, peakBytes: peak)) }
    }
    return found
}

private func repeated(_ count: Int, _ once: () async throws -> Double) async rethrows -> [Double] {
    var found: [Double] = []
    for _ in 0..<count { found.append(try await once()) }
    return found
}
