//! A small cache with a ceiling in bytes: two generations, of which the old one is dropped when the young one is half full.
//! Everything used lately is kept, nothing is ever counted or sorted.

use std::collections::HashMap;
use std::hash::Hash;

pub(crate) struct Cache<K, V> {
    young: HashMap<K, V>,
    old: HashMap<K, V>,
    young_bytes: usize,
    ceiling: usize,
}

impl<K: Eq + Hash + Clone, V: Clone> Cache<K, V> {
    pub(crate) fn new(ceiling: usize) -> Self {
        Cache { young: HashMap::new(), old: HashMap::new(), young_bytes: 0, ceiling }
    }

    pub(crate) fn find(&mut self, key: &K, cost: impl Fn(&V) -> usize) -> Option<V> {
        if let Some(value) = self.young.get(key) {
            return Some(value.clone());
        }
        let value = self.old.remove(key)?;
        self.put(key.clone(), value.clone(), cost(&value));
        Some(value)
    }

    pub(crate) fn put(&mut self, key: K, value: V, cost: usize) {
        if self.young_bytes + cost > self.ceiling / 2 {
            self.old = std::mem::take(&mut self.young);
            self.young_bytes = 0;
        }
        if self.young.insert(key, value).is_none() {
            self.young_bytes += cost;
        }
    }

    pub(crate) fn clear(&mut self) {
        (self.young, self.old, self.young_bytes) = (HashMap::new(), HashMap::new(), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_what_is_used_within_its_ceiling() {
        let mut cache = Cache::new(100);
        for key in 0..1000 {
            cache.put(key, key, 10);
            assert_eq!(cache.find(&0, |_| 10), Some(0), "used all the time, so kept");
        }
        assert_eq!(cache.find(&500, |_| 10), None);
        assert!((cache.young.len() + cache.old.len()) * 10 <= 100);
    }
}
