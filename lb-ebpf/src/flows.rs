//! The flow tables, and the questions of `nat` over them.
#![expect(
    unsafe_code,
    reason = "map values are read and written through pointers here"
)]

use core::ptr;

use aya_ebpf::{
    bindings::{BPF_ANY, BPF_F_NO_PREALLOC, BPF_NOEXIST},
    btf_maps::{HashMap, LruHashMap, PerCpuArray},
    macros::btf_map,
};
use lb_common::{
    flow::{FlowFlags, FlowKey, FlowVal},
    fragment::{FragmentKey, FragmentVal},
    map_table::{Capacity, FRAGMENT_ENTRIES},
    nat::{Draft, Flows},
    net::{Addr4, Addr6, Address},
    reason::Counter,
};

use crate::{count::count_packet, maps::Kernel};

const FLOWS: usize = Capacity::Flows.default_entries() as usize;
const EMBRYOS: usize = Capacity::Embryos.default_entries() as usize;
const FRAGMENTS: usize = FRAGMENT_ENTRIES as usize;
const NO_PREALLOC: usize = BPF_F_NO_PREALLOC as usize;
const ANY: u64 = BPF_ANY as u64;
const NOEXIST: u64 = BPF_NOEXIST as u64;

#[btf_map]
static LB4_FLOWS: HashMap<FlowKey<Addr4>, FlowVal<Addr4>, FLOWS, NO_PREALLOC> = HashMap::new();
#[btf_map]
static LB4_EMBRYOS: LruHashMap<FlowKey<Addr4>, FlowVal<Addr4>, EMBRYOS> = LruHashMap::new();
#[btf_map]
static LB4_FRAGMENTS: LruHashMap<FragmentKey<Addr4>, FragmentVal, FRAGMENTS> = LruHashMap::new();
#[btf_map]
static LB6_FLOWS: HashMap<FlowKey<Addr6>, FlowVal<Addr6>, FLOWS, NO_PREALLOC> = HashMap::new();
#[btf_map]
static LB6_EMBRYOS: LruHashMap<FlowKey<Addr6>, FlowVal<Addr6>, EMBRYOS> = LruHashMap::new();
#[btf_map]
static LB6_FRAGMENTS: LruHashMap<FragmentKey<Addr6>, FragmentVal, FRAGMENTS> = LruHashMap::new();

#[btf_map]
static LB4_DRAFT: PerCpuArray<Draft<Addr4>, 1> = PerCpuArray::new();
#[btf_map]
static LB6_DRAFT: PerCpuArray<Draft<Addr6>, 1> = PerCpuArray::new();

/// A family's tables.
pub trait FlowTables<A>: Flows<A> {
    /// This CPU's draft. Programs on devices run with softirqs off, so one at a time.
    fn draft(&self) -> Option<&'static mut Draft<A>>;
    /// Copies the flow of `draft.key` into `draft.val`; says whether it is still an embryo.
    fn find(&self, draft: &mut Draft<A>) -> Option<bool>;
    /// Notes state and time in a half that is there; false if it is not.
    fn note(&self, key: &FlowKey<A>, flags: FlowFlags, seen_s: u32) -> bool;
    /// Notes the next hop of a half that leaves by `oif`.
    fn note_via(&self, key: &FlowKey<A>, oif: u32, via: &A);
    /// Puts a half among the established; false without room.
    fn establish(&self, key: &FlowKey<A>, val: &FlowVal<A>) -> bool;
    /// Takes a half out of the embryos.
    fn leave_embryos(&self, key: &FlowKey<A>);
    /// Takes a half out of the established.
    fn leave_established(&self, key: &FlowKey<A>);
    /// The ports of a datagram whose first fragment was seen.
    fn fragment(&self, key: &FragmentKey<A>) -> Option<FragmentVal>;
    /// Notes them.
    fn put_fragment(&self, key: &FragmentKey<A>, val: &FragmentVal);
}

/// Writes the state bits and the time of a flow.
///
/// # Safety
/// `at` points to a map's value that is valid until the program ends.
#[inline(always)]
unsafe fn write_state<A: Address>(at: *mut FlowVal<A>, flags: FlowFlags, seen_s: u32) {
    // SAFETY: by contract. Both fields are written whole; of two writers the later wins.
    unsafe {
        let own = (&raw const (*at).flags).read_volatile();
        let state = FlowFlags {
            bits: flags.bits & FlowFlags::STATE.bits,
        };
        (&raw mut (*at).flags).write_volatile(own.without(FlowFlags::STATE).with(state));
        (&raw mut (*at).seen_s).write_volatile(seen_s);
    }
}

macro_rules! flow_tables {
    ($addr:ty, $look:ident, $flows:ident, $embryos:ident, $fragments:ident, $draft:ident) => {
        /// Where a half is, and whether among the embryos. A flow that grows up is put among the established before it
        /// leaves the embryos: who finds it in neither looks at the first again. Missed, its packet would go on
        /// untranslated and be answered with RST, and its tuple would be given away.
        #[inline(always)]
        fn $look(key: &FlowKey<$addr>) -> Option<(*mut FlowVal<$addr>, bool)> {
            if let Some(at) = $flows.get_ptr_mut(key) {
                return Some((at, false));
            }
            match $embryos.get_ptr_mut(key) {
                Some(at) => Some((at, true)),
                None => $flows.get_ptr_mut(key).map(|at| (at, false)),
            }
        }

        impl Flows<$addr> for Kernel {
            #[inline(always)]
            fn load(&self, key: &FlowKey<$addr>, to: &mut FlowVal<$addr>) -> bool {
                let Some((at, _)) = $look(key) else {
                    return false;
                };
                // SAFETY: from a map's value that is valid until the program ends; see `find`.
                unsafe { ptr::copy_nonoverlapping(at, to, 1) };
                true
            }

            #[inline(always)]
            fn is_flow(&self, key: &FlowKey<$addr>) -> bool {
                $look(key).is_some()
            }

            #[inline(always)]
            fn reserve(&self, key: &FlowKey<$addr>, val: &FlowVal<$addr>) -> bool {
                $embryos.insert(key, val, NOEXIST).is_ok()
            }

            #[inline(always)]
            fn forget(&self, key: &FlowKey<$addr>) {
                // An entry that is gone already is what is wanted.
                let _gone = $flows.remove(key);
                let _gone = $embryos.remove(key);
            }

            #[inline(always)]
            fn note_port_changed(&self) {
                count_packet(Counter::PortChanged);
            }
        }

        impl FlowTables<$addr> for Kernel {
            #[inline(always)]
            fn draft(&self) -> Option<&'static mut Draft<$addr>> {
                // SAFETY: the map's value, a CPU's own, valid until the program ends, and asked for once.
                $draft.get_ptr_mut(0).map(|at| unsafe { &mut *at })
            }

            #[inline(always)]
            fn find(&self, draft: &mut Draft<$addr>) -> Option<bool> {
                let (at, is_embryo) = $look(&draft.key)?;
                // SAFETY: from a map's value that is valid until the program ends to another map's. An entry
                // recycled meanwhile is another flow's; its packets would be answered with RST, as after any
                // loss of state. Not by assignment, which would go through the stack.
                unsafe { ptr::copy_nonoverlapping(at, &raw mut draft.val, 1) };
                Some(is_embryo)
            }

            #[inline(always)]
            fn note(&self, key: &FlowKey<$addr>, flags: FlowFlags, seen_s: u32) -> bool {
                let Some((at, _)) = $look(key) else {
                    return false;
                };
                // SAFETY: the map's value, valid until the program ends.
                unsafe { write_state(at, flags, seen_s) };
                true
            }

            #[inline(always)]
            fn note_via(&self, key: &FlowKey<$addr>, oif: u32, via: &$addr) {
                if let Some((at, _)) = $look(key) {
                    // SAFETY: the map's value, valid until the program ends. Who reads an address of which half is
                    // written loses a packet, at a change of routes.
                    unsafe {
                        if (*at).oif == oif && (*at).via != *via {
                            (&raw mut (*at).via).write(*via);
                        }
                    }
                }
            }

            #[inline(always)]
            fn establish(&self, key: &FlowKey<$addr>, val: &FlowVal<$addr>) -> bool {
                $flows.insert(key, val, ANY).is_ok()
            }

            #[inline(always)]
            fn leave_embryos(&self, key: &FlowKey<$addr>) {
                let _gone = $embryos.remove(key);
            }

            #[inline(always)]
            fn leave_established(&self, key: &FlowKey<$addr>) {
                let _gone = $flows.remove(key);
            }

            #[inline(always)]
            fn fragment(&self, key: &FragmentKey<$addr>) -> Option<FragmentVal> {
                // SAFETY: copied at once.
                unsafe { $fragments.get(key).copied() }
            }

            #[inline(always)]
            fn put_fragment(&self, key: &FragmentKey<$addr>, val: &FragmentVal) {
                // Without it later fragments are dropped and counted.
                let _full = $fragments.insert(key, val, ANY);
            }
        }
    };
}

flow_tables!(
    Addr4,
    look4,
    LB4_FLOWS,
    LB4_EMBRYOS,
    LB4_FRAGMENTS,
    LB4_DRAFT
);
flow_tables!(
    Addr6,
    look6,
    LB6_FLOWS,
    LB6_EMBRYOS,
    LB6_FRAGMENTS,
    LB6_DRAFT
);
