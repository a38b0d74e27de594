//! Hash tables for names and numbers that come from a tenant: seeded at random, so that collisions
//! cannot be prepared, and several times faster on short keys than the standard hasher.

/// A map with the crate's hasher.
pub(crate) type HashMap<K, V> = std::collections::HashMap<K, V, foldhash::fast::RandomState>;
/// A set with the crate's hasher.
pub(crate) type HashSet<T> = std::collections::HashSet<T, foldhash::fast::RandomState>;
