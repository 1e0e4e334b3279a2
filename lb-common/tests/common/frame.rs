//! A packet in memory, changed as the kernel's helpers change one.

#![allow(
    dead_code,
    reason = "every test target is its own crate and uses its part"
)]

use std::cell::RefCell;

use lb_common::{
    csum::Sum,
    parse::Bytes,
    rewrite::{Csum, Frame},
};

/// What transport checksums hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sums {
    /// Everything.
    Full,
    /// The pseudo header's sum, for a device to complete (CHECKSUM_PARTIAL).
    Partial,
}

pub struct Buffer {
    pub bytes: RefCell<Vec<u8>>,
    pub sums: Sums,
}

impl Buffer {
    pub fn new(bytes: Vec<u8>, sums: Sums) -> Self {
        Self {
            bytes: RefCell::new(bytes),
            sums,
        }
    }

    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes.into_inner()
    }
}

impl Bytes for Buffer {
    fn load<const N: usize>(&self, at: u32) -> Option<[u8; N]> {
        let at = at as usize;
        self.bytes.borrow().get(at..at + N)?.try_into().ok()
    }

    fn size(&self) -> u32 {
        self.bytes.borrow().len().try_into().expect("a packet")
    }
}

impl Frame for Buffer {
    fn store<const N: usize>(&self, at: u32, bytes: &[u8; N]) -> bool {
        let at = at as usize;
        match self.bytes.borrow_mut().get_mut(at..at + N) {
            Some(place) => {
                place.copy_from_slice(bytes);
                true
            }
            None => false,
        }
    }

    /// bpf_l4_csum_replace (net/core/filter.c) with inet_proto_csum_replace_by_diff (net/core/utils.c).
    fn l4_csum(&self, at: u32, diff: u32, how: Csum) -> bool {
        let Some(field) = self.load::<2>(at) else {
            return false;
        };
        if how.zero_is_none && field == [0; 2] {
            return true;
        }
        let diff = diff.to_ne_bytes();
        let new = match self.sums {
            Sums::Full => {
                let [first, second] = field;
                Sum::default()
                    .with(&[!first, !second])
                    .with(&diff)
                    .checksum()
            }
            Sums::Partial if how.is_pseudo => Sum::default().with(&field).with(&diff).folded(),
            Sums::Partial => field,
        };
        let new = if how.zero_is_none && new == [0; 2] {
            [0xff; 2]
        } else {
            new
        };
        self.store(at, &new)
    }
}
