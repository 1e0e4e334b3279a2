//! The stages of a packet, as functions that stand for themselves.
//!
//! The verifier checks an exported function once, whatever calls it (global functions, Linux 5.6); a private one at
//! each call again, with all that is known there. Between stages a packet is described by the per-CPU draft.
#![expect(
    unsafe_code,
    reason = "exporting a function under a name of its own is unsafe by name only; and one line of assembly"
)]

use core::arch::asm;

use aya_ebpf::bindings::__sk_buff;
use lb_common::{
    net::{Addr4, Addr6},
    sctp,
};

use crate::{
    answer, icmp,
    packet::Skb,
    tc_lb::{self, Family, Side},
};

/// A family's stages; see the functions of the same names.
pub trait Stages: Family {
    fn read(skb: &Skb) -> u32;
    fn opener(skb: &Skb) -> i32;
    fn touch(skb: &Skb, is_embryo: bool);
    fn find_ways(skb: &Skb);
    fn send(skb: &Skb) -> i32;
    fn beside(skb: &Skb) -> i32;
    fn collision(skb: &Skb) -> i32;
    fn nowhere(side: Side) -> i32;
    fn related(skb: &Skb, side: Side) -> i32;
    fn refuse_syn(skb: &Skb, side: Side) -> i32;
    fn put_error(skb: &Skb, side: Side) -> i32;
}

/// An argument as it is. The compiler passes anything at all for one that it sees unused, and the verifier refuses what
/// is no number.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "made of 32 bits")]
fn kept(l3: u32) -> u32 {
    let mut kept = u64::from(l3);
    // SAFETY: a register is copied to itself.
    unsafe { asm!("{r} = {r}", r = inout(reg) kept) };
    kept as u32
}

/// [`sctp::crc_change`]: 16 products of 32 steps, once and not once for each way that leads to it.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn lb_crc_change(delta: u32, after: u32) -> u32 {
    sctp::crc_change(delta, after)
}

macro_rules! stages {
    ($addr:ty, $read:ident, $opener:ident, $touch:ident, $find_ways:ident, $send:ident, $beside:ident, $collision:ident,
     $nowhere:ident, $related:ident, $refuse_syn:ident, $put_error:ident) => {
        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $read(ctx: *mut __sk_buff, l3: u32) -> u32 {
            tc_lb::read::<$addr>(&Skb::new(ctx, kept(l3)))
        }

        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $opener(ctx: *mut __sk_buff, l3: u32) -> i32 {
            tc_lb::opener::<$addr>(&Skb::new(ctx, kept(l3)))
        }

        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $touch(ctx: *mut __sk_buff, l3: u32, is_embryo: u32) -> i32 {
            tc_lb::touch::<$addr>(&Skb::new(ctx, kept(l3)), kept(is_embryo) != 0);
            0
        }

        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $find_ways(ctx: *mut __sk_buff, l3: u32) -> i32 {
            tc_lb::find_ways::<$addr>(&Skb::new(ctx, kept(l3)))
        }

        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $send(ctx: *mut __sk_buff, l3: u32) -> i32 {
            tc_lb::send::<$addr>(&Skb::new(ctx, kept(l3)))
        }

        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $beside(ctx: *mut __sk_buff, l3: u32) -> i32 {
            tc_lb::beside::<$addr>(&Skb::new(ctx, kept(l3)))
        }

        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $collision(ctx: *mut __sk_buff, l3: u32) -> i32 {
            tc_lb::collision::<$addr>(&Skb::new(ctx, kept(l3)))
        }

        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $nowhere(side: u32) -> i32 {
            tc_lb::nowhere::<$addr>(Side::from_index(kept(side)))
        }

        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $related(ctx: *mut __sk_buff, l3: u32, side: u32) -> i32 {
            icmp::related::<$addr>(&Skb::new(ctx, kept(l3)), Side::from_index(kept(side)))
        }

        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $refuse_syn(ctx: *mut __sk_buff, l3: u32, side: u32) -> i32 {
            answer::refuse_syn::<$addr>(&Skb::new(ctx, kept(l3)), Side::from_index(kept(side)))
        }

        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $put_error(ctx: *mut __sk_buff, l3: u32, side: u32) -> i32 {
            answer::put_error::<$addr>(&Skb::new(ctx, kept(l3)), Side::from_index(kept(side)))
        }

        impl Stages for $addr {
            #[inline(always)]
            fn read(skb: &Skb) -> u32 {
                $read(skb.raw, skb.l3)
            }
            #[inline(always)]
            fn opener(skb: &Skb) -> i32 {
                $opener(skb.raw, skb.l3)
            }
            #[inline(always)]
            fn touch(skb: &Skb, is_embryo: bool) {
                $touch(skb.raw, skb.l3, is_embryo as u32);
            }
            #[inline(always)]
            fn find_ways(skb: &Skb) {
                $find_ways(skb.raw, skb.l3);
            }
            #[inline(always)]
            fn send(skb: &Skb) -> i32 {
                $send(skb.raw, skb.l3)
            }
            #[inline(always)]
            fn beside(skb: &Skb) -> i32 {
                $beside(skb.raw, skb.l3)
            }
            #[inline(always)]
            fn collision(skb: &Skb) -> i32 {
                $collision(skb.raw, skb.l3)
            }
            #[inline(always)]
            fn nowhere(side: Side) -> i32 {
                $nowhere(side as u32)
            }
            #[inline(always)]
            fn related(skb: &Skb, side: Side) -> i32 {
                $related(skb.raw, skb.l3, side as u32)
            }
            #[inline(always)]
            fn refuse_syn(skb: &Skb, side: Side) -> i32 {
                $refuse_syn(skb.raw, skb.l3, side as u32)
            }
            #[inline(always)]
            fn put_error(skb: &Skb, side: Side) -> i32 {
                $put_error(skb.raw, skb.l3, side as u32)
            }
        }
    };
}

stages!(
    Addr4,
    lb_read4,
    lb_opener4,
    lb_touch4,
    lb_find_ways4,
    lb_send4,
    lb_beside4,
    lb_collision4,
    lb_nowhere4,
    lb_related4,
    lb_refuse_syn4,
    lb_put_error4
);
stages!(
    Addr6,
    lb_read6,
    lb_opener6,
    lb_touch6,
    lb_find_ways6,
    lb_send6,
    lb_beside6,
    lb_collision6,
    lb_nowhere6,
    lb_related6,
    lb_refuse_syn6,
    lb_put_error6
);
