//! A list of slots as one 64-bit word, so that a reader sees all of it or none.

use core::fmt;

/// Why a list may be empty: the verdict for a flow that would use it (behaviour table 1.E).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Empty {
    /// No usable endpoint anywhere: refuse with an answer (rules 43 to 45).
    Reject,
    /// Endpoints exist, but the policy allows none from here (rule 36).
    Drop,
}

/// `len` slots from index `base` on; in an empty list the base holds the verdict instead.
///
/// Shape: `len << 32 | base`, host order, published with one aligned 64-bit store.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
#[repr(transparent)]
pub struct ListRange(pub u64);

impl ListRange {
    const DROP: u32 = 1;

    /// A list of `len` slots; an empty one rejects.
    #[inline(always)]
    pub const fn new(base: u32, len: u32) -> Self {
        Self((len as u64) << 32 | base as u64)
    }

    /// An empty list with its verdict.
    #[inline(always)]
    pub const fn empty(verdict: Empty) -> Self {
        match verdict {
            Empty::Reject => Self(0),
            Empty::Drop => Self(Self::DROP as u64),
        }
    }

    /// How many slots.
    #[inline(always)]
    pub const fn len(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// Has it none?
    #[inline(always)]
    pub const fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// Index of the first slot; meaningless when empty.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "the low half is meant")]
    pub const fn base(self) -> u32 {
        self.0 as u32
    }

    /// The verdict of an empty list.
    #[inline(always)]
    pub const fn verdict(self) -> Empty {
        if self.base() == Self::DROP {
            Empty::Drop
        } else {
            Empty::Reject
        }
    }
}

impl fmt::Debug for ListRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return write!(f, "empty({:?})", self.verdict());
        }
        write!(f, "{}+{}", self.base(), self.len())
    }
}

/// Which of a service's two lists.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum List {
    /// Rule 28: any endpoint of the cluster, after topology.
    Cluster,
    /// Rule 29: endpoints on this node.
    Local,
}
