//! The hooks. At the socket 1 lets the call go on, 0 refuses it with the error set before; on a device the
//! value is a verdict of enum tcx_action_base.
#![expect(
    unsafe_code,
    reason = "the macros export each program under a name and section of its own"
)]

use aya_ebpf::{
    EbpfContext as _,
    bindings::__sk_buff,
    macros::{cgroup_sock, cgroup_sock_addr, classifier},
    programs::{SockAddrContext, SockContext, TcContext},
};

use crate::{bind, packet::Skb, sock::Sock, sock_addr::SockAddr, sock_lb, tc_lb};

/// Bytes of an Ethernet header.
const ETHERNET: u32 = 14;
const NO_LINK_HEADER: u32 = 0;

#[cgroup_sock_addr(connect4)]
fn lb_connect4(ctx: SockAddrContext) -> i32 {
    sock_lb::connect4(&SockAddr::new(&ctx))
}

#[cgroup_sock_addr(connect6)]
fn lb_connect6(ctx: SockAddrContext) -> i32 {
    sock_lb::connect6(&SockAddr::new(&ctx))
}

#[cgroup_sock_addr(sendmsg4)]
fn lb_sendmsg4(ctx: SockAddrContext) -> i32 {
    sock_lb::sendmsg4(&SockAddr::new(&ctx))
}

#[cgroup_sock_addr(sendmsg6)]
fn lb_sendmsg6(ctx: SockAddrContext) -> i32 {
    sock_lb::sendmsg6(&SockAddr::new(&ctx))
}

#[cgroup_sock_addr(recvmsg4)]
fn lb_recvmsg4(ctx: SockAddrContext) -> i32 {
    sock_lb::recvmsg4(&SockAddr::new(&ctx))
}

#[cgroup_sock_addr(recvmsg6)]
fn lb_recvmsg6(ctx: SockAddrContext) -> i32 {
    sock_lb::recvmsg6(&SockAddr::new(&ctx))
}

#[cgroup_sock_addr(getpeername4)]
fn lb_getpeer4(ctx: SockAddrContext) -> i32 {
    sock_lb::getpeername4(&SockAddr::new(&ctx))
}

#[cgroup_sock_addr(getpeername6)]
fn lb_getpeer6(ctx: SockAddrContext) -> i32 {
    sock_lb::getpeername6(&SockAddr::new(&ctx))
}

#[cgroup_sock(post_bind4)]
fn lb_post_bind4(ctx: SockContext) -> i32 {
    bind::post_bind4(&Sock::new(&ctx))
}

#[cgroup_sock(post_bind6)]
fn lb_post_bind6(ctx: SockContext) -> i32 {
    bind::post_bind6(&Sock::new(&ctx))
}

#[cgroup_sock(sock_release)]
fn lb_sock_release(ctx: SockContext) -> i32 {
    sock_lb::release(&Sock::new(&ctx))
}

#[inline(always)]
fn skb(ctx: &TcContext) -> *mut __sk_buff {
    ctx.as_ptr().cast()
}

#[classifier]
fn lb_tc_in(ctx: TcContext) -> i32 {
    tc_lb::ingress(&Skb::new(skb(&ctx), ETHERNET))
}

#[classifier]
fn lb_tc_out(ctx: TcContext) -> i32 {
    tc_lb::egress(&Skb::new(skb(&ctx), ETHERNET))
}

#[classifier]
fn lb_tc_in_l3(ctx: TcContext) -> i32 {
    tc_lb::ingress(&Skb::new(skb(&ctx), NO_LINK_HEADER))
}

#[classifier]
fn lb_tc_out_l3(ctx: TcContext) -> i32 {
    tc_lb::egress(&Skb::new(skb(&ctx), NO_LINK_HEADER))
}

#[classifier]
fn lb_lb0_out(ctx: TcContext) -> i32 {
    tc_lb::lb0_egress(&Skb::new(skb(&ctx), ETHERNET))
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}
