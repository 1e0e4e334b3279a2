//! How many refusals are answered: a flood of packets must not become one of answers.

/// Answers that may come at once, on each CPU.
pub const BURST: u32 = 200;
/// Answers a second, on each CPU, in the long run. Linux limits ICMP to 1,000 for a whole host, and RSTs not at all.
pub const PER_SECOND: u64 = 1_000;
const NS_PER_TOKEN: u64 = 1_000_000_000 / PER_SECOND;

/// Value of `LB_LIMIT`: a token bucket.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct Bucket {
    /// When tokens were last added: nanoseconds since boot; 0: never used.
    pub filled_ns: u64,
    /// Answers that may be given now.
    pub tokens: u32,
    /// Zero.
    pub pad: u32,
}

impl Bucket {
    /// Takes a token; the bucket afterwards, or `None` when it is empty.
    #[inline(always)]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "at most BURST after the comparison"
    )]
    pub const fn take(&self, now_ns: u64) -> Option<Self> {
        let since = now_ns.saturating_sub(self.filled_ns);
        let new = since / NS_PER_TOKEN;
        let (tokens, filled_ns) = if new >= BURST as u64 {
            (BURST, now_ns)
        } else {
            let sum = self.tokens + new as u32;
            let filled = self.filled_ns + new * NS_PER_TOKEN;
            (if sum > BURST { BURST } else { sum }, filled)
        };
        if tokens == 0 {
            return None;
        }
        Some(Self {
            filled_ns,
            tokens: tokens - 1,
            pad: 0,
        })
    }
}
