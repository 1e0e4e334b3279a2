//! The token bucket of answers.

use lb_common::limit::{BURST, Bucket, PER_SECOND};

const MS: u64 = 1_000_000;
const SECOND: u64 = 1_000 * MS;

/// How many tokens come out of it at once.
fn drain(mut bucket: Bucket, now_ns: u64) -> (u32, Bucket) {
    let mut taken = 0;
    while let Some(next) = bucket.take(now_ns) {
        (bucket, taken) = (next, taken + 1);
    }
    (taken, bucket)
}

#[test]
fn a_new_bucket_is_full() {
    assert_eq!(drain(Bucket::default(), SECOND).0, BURST);
}

#[test]
fn an_empty_bucket_gives_nothing_until_time_has_passed() {
    let (_, empty) = drain(Bucket::default(), SECOND);
    assert_eq!(empty.take(SECOND), None);
    assert_eq!(empty.take(SECOND + MS - 1), None);
    assert_eq!(drain(empty, SECOND + MS).0, 1);
    assert_eq!(drain(empty, SECOND + 17 * MS).0, 17);
}

#[test]
fn a_long_rest_fills_it_and_no_more() {
    let (_, empty) = drain(Bucket::default(), SECOND);
    assert_eq!(drain(empty, 3_600 * SECOND).0, BURST);
    let half = Bucket {
        filled_ns: SECOND,
        tokens: BURST - 1,
        pad: 0,
    };
    assert_eq!(drain(half, SECOND + 100 * MS).0, BURST);
}

#[test]
fn in_the_long_run_it_gives_its_rate() {
    let (_, mut bucket) = drain(Bucket::default(), SECOND);
    let mut given = 0;
    // Asked every 0.3 ms: parts of tokens are not lost.
    for tick in 1..=10_000_u64 {
        if let Some(next) = bucket.take(SECOND + tick * 300_000) {
            (bucket, given) = (next, given + 1);
        }
    }
    assert_eq!(given, 3 * PER_SECOND);
}

#[test]
fn a_clock_that_goes_back_gives_nothing_and_breaks_nothing() {
    let (_, empty) = drain(Bucket::default(), SECOND);
    assert_eq!(empty.take(SECOND / 2), None);
    assert_eq!(drain(empty, SECOND + MS).0, 1);
}
