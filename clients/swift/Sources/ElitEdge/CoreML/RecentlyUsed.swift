/// A bounded memory: what was not asked for longest goes first.
struct RecentlyUsed<Key: Hashable, Value> {
    /// At least 1.
    let capacity: Int
    private var values: [Key: Value] = [:]
    /// Oldest first.
    private var order: [Key] = []

    init(capacity: Int) {
        self.capacity = max(1, capacity)
    }

    var keys: [Key] { order }

    /// The value of a key, which counts as a use.
    mutating func value(for key: Key) -> Value? {
        guard let value = values[key] else { return nil }
        touch(key)
        return value
    }

    mutating func insert(_ value: Value, for key: Key) {
        values[key] = value
        touch(key)
        while order.count > capacity {
            values[order.removeFirst()] = nil
        }
    }

    mutating func remove(_ key: Key) {
        values[key] = nil
        order.removeAll { $0 == key }
    }

    mutating func removeAll() {
        values.removeAll()
        order.removeAll()
    }

    private mutating func touch(_ key: Key) {
        order.removeAll { $0 == key }
        order.append(key)
    }
}
