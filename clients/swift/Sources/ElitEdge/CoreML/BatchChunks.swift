/// How many samples go through functions whose batches are fixed.
enum BatchChunks {
    /// One call: how many samples it takes, and the batch of the function, which may be larger: the rest is padding.
    struct Chunk: Equatable {
        let samples: Int
        let batch: Int
    }

    /// The calls for `count` samples, in their order: the largest batch that they fill, padding only where none is.
    ///
    /// - Parameter batches: at least one.
    static func chunks(of count: Int, batches: [Int]) -> [Chunk] {
        let ascending = batches.sorted()
        var chunks: [Chunk] = []
        var left = count
        while left > 0, let smallest = ascending.first {
            let batch = ascending.last { $0 <= left } ?? smallest
            chunks.append(Chunk(samples: min(left, batch), batch: batch))
            left -= min(left, batch)
        }
        return chunks
    }
}
