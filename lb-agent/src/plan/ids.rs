//! Who has which id and which slots: given, taken back, and kept from reuse until no reader can
//! still mean the old owner.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Ids from 1 to below the capacity, for id 0 names nothing.
///
/// Given in rotation, not last-in first-out: the longer an id rests, the less anything still
/// remembers of its last owner.
#[derive(Clone, Debug)]
pub(super) struct Pool {
    next: u32,
    capacity: u32,
    free: VecDeque<u32>,
    resting: Vec<u32>,
}

impl Pool {
    /// All free but `used`.
    pub(super) fn new(capacity: u32, used: &BTreeSet<u32>) -> Self {
        let next = used.last().map_or(1, |last| last.saturating_add(1)).max(1);
        let is_free = |id: &u32| !used.contains(id);
        Self {
            next,
            capacity,
            free: (1..next.min(capacity)).filter(is_free).collect(),
            resting: Vec::new(),
        }
    }

    /// An id that nobody has; `None`: there is none.
    pub(super) fn take(&mut self) -> Option<u32> {
        if self.next < self.capacity {
            self.next += 1;
            return Some(self.next - 1);
        }
        self.free.pop_front()
    }

    /// Takes back an id that no reader has ever seen.
    pub(super) fn give_back(&mut self, id: u32) {
        self.free.push_front(id);
    }

    /// Takes back an id that readers may still mean.
    pub(super) fn retire(&mut self, id: u32) {
        self.resting.push(id);
    }

    /// Would waiting for readers free some?
    pub(super) fn is_resting(&self) -> bool {
        !self.resting.is_empty()
    }

    /// Every reader of before has ended.
    pub(super) fn release(&mut self) {
        self.free.extend(self.resting.drain(..));
    }
}

/// A run of slots.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Extent {
    /// Index of the first.
    pub(super) base: u32,
    /// How many, not 0.
    pub(super) len: u32,
}

/// The slots, as runs that are free or not. The smallest free run that fits is given; neighbours
/// grow together again.
#[derive(Clone, Debug, Default)]
pub(super) struct Extents {
    by_base: BTreeMap<u32, u32>,
    by_len: BTreeSet<(u32, u32)>,
    resting: Vec<Extent>,
}

impl Extents {
    /// All of them free.
    pub(super) fn new(capacity: u32) -> Self {
        let mut all = Self::default();
        if capacity > 0 {
            all.insert(Extent {
                base: 0,
                len: capacity,
            });
        }
        all
    }

    /// A run of `len` slots; where there is none so long, the longest one.
    pub(super) fn take_up_to(&mut self, len: u32) -> Option<Extent> {
        let fitting = self.by_len.range((len, 0)..).next();
        let (free, base) = *fitting.or_else(|| self.by_len.last())?;
        self.remove(Extent { base, len: free });
        let taken = len.min(free);
        if free > taken {
            self.insert(Extent {
                base: base + taken,
                len: free - taken,
            });
        }
        Some(Extent { base, len: taken })
    }

    /// Length of the longest free run.
    pub(super) fn longest(&self) -> u32 {
        self.by_len.last().map_or(0, |(len, _)| *len)
    }

    /// Takes exactly these; false where one of them is not free.
    pub(super) fn reserve(&mut self, wanted: Extent) -> bool {
        let Some((base, len)) = self.by_base.range(..=wanted.base).next_back() else {
            return false;
        };
        let free = Extent {
            base: *base,
            len: *len,
        };
        let (Some(end), free_end) = (wanted.base.checked_add(wanted.len), free.base + free.len)
        else {
            return false;
        };
        if end > free_end {
            return false;
        }
        self.remove(free);
        for (base, end) in [(free.base, wanted.base), (end, free_end)] {
            if end > base {
                self.insert(Extent {
                    base,
                    len: end - base,
                });
            }
        }
        true
    }

    /// Takes back slots that no list has ever covered.
    pub(super) fn give_back(&mut self, mut freed: Extent) {
        if let Some((base, len)) = self.by_base.range(..freed.base).next_back()
            && base + len == freed.base
        {
            let before = Extent {
                base: *base,
                len: *len,
            };
            self.remove(before);
            freed = Extent {
                base: before.base,
                len: before.len + freed.len,
            };
        }
        if let Some(len) = self.by_base.get(&(freed.base + freed.len)).copied() {
            self.remove(Extent {
                base: freed.base + freed.len,
                len,
            });
            freed.len += len;
        }
        self.insert(freed);
    }

    /// Takes back slots that readers may still look at.
    pub(super) fn retire(&mut self, freed: Extent) {
        self.resting.push(freed);
    }

    /// Would waiting for readers free some?
    pub(super) fn is_resting(&self) -> bool {
        !self.resting.is_empty()
    }

    /// Every reader of before has ended.
    pub(super) fn release(&mut self) {
        for extent in std::mem::take(&mut self.resting) {
            self.give_back(extent);
        }
    }

    fn insert(&mut self, free: Extent) {
        self.by_base.insert(free.base, free.len);
        self.by_len.insert((free.len, free.base));
    }

    fn remove(&mut self, free: Extent) {
        self.by_base.remove(&free.base);
        self.by_len.remove(&(free.len, free.base));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_given_in_rotation_and_only_after_their_rest() {
        let mut pool = Pool::new(4, &BTreeSet::new());
        assert_eq!([1, 2, 3].map(Some), [(); 3].map(|()| pool.take()));
        pool.retire(2);
        pool.retire(1);
        assert_eq!(pool.take(), None);
        assert!(pool.is_resting());
        pool.release();
        assert_eq!(
            [pool.take(), pool.take(), pool.take()],
            [Some(2), Some(1), None]
        );
    }

    #[test]
    fn an_adopted_pool_gives_no_used_id() {
        let mut pool = Pool::new(6, &BTreeSet::from([1, 3]));
        let rest: BTreeSet<u32> = std::iter::from_fn(|| pool.take()).collect();
        assert_eq!(rest, BTreeSet::from([2, 4, 5]));
    }

    #[test]
    fn free_neighbours_grow_together() {
        let mut slots = Extents::new(12);
        let runs: Vec<Extent> = (0..3).filter_map(|_| slots.take_up_to(4)).collect();
        for i in [0, 2, 1] {
            slots.give_back(runs[i]);
        }
        assert_eq!(slots.take_up_to(12), Some(Extent { base: 0, len: 12 }));
    }

    #[test]
    fn the_smallest_run_that_fits_is_taken() {
        let mut slots = Extents::new(20);
        assert!(slots.reserve(Extent { base: 3, len: 1 }));
        assert_eq!(slots.take_up_to(2), Some(Extent { base: 0, len: 2 }));
        assert_eq!(slots.take_up_to(4), Some(Extent { base: 4, len: 4 }));
    }

    #[test]
    fn what_does_not_fit_gets_the_longest_run() {
        let mut slots = Extents::new(8);
        assert!(slots.reserve(Extent { base: 2, len: 1 }));
        assert_eq!(slots.take_up_to(9), Some(Extent { base: 3, len: 5 }));
    }

    #[test]
    fn taken_slots_and_slots_out_of_range_are_not_reserved() {
        let mut slots = Extents::new(8);
        assert!(slots.reserve(Extent { base: 2, len: 4 }));
        assert!(!slots.reserve(Extent { base: 5, len: 1 }));
        assert!(!slots.reserve(Extent { base: 6, len: 3 }));
        assert!(!slots.reserve(Extent {
            base: u32::MAX,
            len: 2
        }));
    }
}
