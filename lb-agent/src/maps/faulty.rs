//! Maps whose ops fail now and then, as the kernel's may: for tests of whatever plans and retries.

use lb_common::net::Address;

use super::{Capacities, Content, LbMaps, MapError, Op};

/// Wraps maps; about one op in `one_in` fails and changes nothing. The same seed fails the same ops.
#[derive(Clone, Debug)]
pub struct Faulty<M> {
    /// The maps behind.
    pub maps: M,
    one_in: u64,
    state: u64,
}

impl<M> Faulty<M> {
    /// `one_in` 0 never fails.
    pub fn new(maps: M, one_in: u64, seed: u64) -> Self {
        Self {
            maps,
            one_in,
            state: seed,
        }
    }

    /// Nothing fails any more.
    pub fn heal(&mut self) {
        self.one_in = 0;
    }

    /// SplitMix64 (Steele, Lea, Flood 2014).
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn fails(&mut self) -> bool {
        self.one_in != 0 && self.next().is_multiple_of(self.one_in)
    }
}

impl<A: Address, M: LbMaps<A>> LbMaps<A> for Faulty<M> {
    fn capacities(&self) -> Capacities {
        self.maps.capacities()
    }

    fn read(&self) -> Result<Content<A>, MapError> {
        self.maps.read()
    }

    fn apply(&mut self, op: &Op<A>) -> Result<(), MapError> {
        if self.fails() {
            return Err(MapError::Kernel {
                map: "LB_FAULTY",
                action: "apply",
                key: format!("{op:?}"),
                source: std::io::ErrorKind::Interrupted.into(),
            });
        }
        self.maps.apply(op)
    }

    fn wait_for_readers(&mut self) -> Result<(), MapError> {
        self.maps.wait_for_readers()
    }
}
