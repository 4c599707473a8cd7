// SPDX-License-Identifier: GPL-2.0
//! The module's arithmetic, on the host: the very file that the kernel is given, held against
//! the same sums in integers that cannot overflow.

#[path = "../../src/range.rs"]
mod range;

use proptest::prelude::*;
use range::{MAX_PAGES, bytes, page_count, pages};

/// Any number, and those around which things break.
fn any_usize() -> impl Strategy<Value = usize> {
    prop_oneof![
        any::<usize>(),
        0..10_usize,
        (usize::MAX - 10)..=usize::MAX,
        (0..64_u32, -2..=2_i64).prop_map(|(bit, off)| (1_usize << bit).wrapping_add(off as usize)),
    ]
}

fn any_i64() -> impl Strategy<Value = i64> {
    any_usize().prop_map(|number| number as i64)
}

#[test]
fn page_count_at_its_limits() {
    for refused in [0, -1, i64::MIN, 262_145, i64::MAX, 1 << 32, (1 << 32) + 1] {
        assert_eq!(page_count(refused), None, "{refused}");
    }
    for taken in [1, 2, 4096, 262_143, 262_144] {
        assert_eq!(page_count(taken), Some(taken as usize), "{taken}");
    }
    assert_eq!(MAX_PAGES, 262_144);
}

#[test]
fn pages_at_the_end() {
    assert_eq!(pages(0, 4, 4), Some(0..4));
    assert_eq!(pages(3, 1, 4), Some(3..4));
    assert_eq!(pages(0, 5, 4), None, "one more than there are");
    assert_eq!(pages(3, 2, 4), None, "one past the end");
    assert_eq!(pages(4, 1, 4), None, "the first one behind the end");
    assert_eq!(pages(4, 0, 4), None, "nothing");
    assert_eq!(pages(usize::MAX, 2, 4), None, "a sum that wraps to 1");
    assert_eq!(pages(usize::MAX, usize::MAX, usize::MAX), None);
}

#[test]
fn bytes_at_the_end() {
    assert_eq!(bytes(0, 4096, 4096), Some(0..4096));
    assert_eq!(bytes(4000, 200, 4096), Some(4000..4096), "short at the end");
    assert_eq!(bytes(4095, 1, 4096), Some(4095..4096));
    assert_eq!(bytes(4096, 1, 4096), None, "at the end");
    assert_eq!(bytes(-1, 1, 4096), None, "before the start");
    assert_eq!(
        bytes(1, usize::MAX, 4096),
        Some(1..4096),
        "a sum that wraps to 0"
    );
    assert_eq!(bytes(0, 0, 4096), Some(0..0), "nothing");
    assert_eq!(bytes(i64::MAX, 1, 4096), None);
}

proptest! {
    #[test]
    fn page_count_is_the_number_in_range(parameter in any_i64()) {
        let expected = (1..=262_144).contains(&parameter).then_some(parameter as usize);
        prop_assert_eq!(page_count(parameter), expected);
    }

    #[test]
    fn pages_are_the_range_that_fits(
        first in any_usize(), count in any_usize(), total in any_usize(),
    ) {
        let fits = count > 0 && first as u128 + count as u128 <= total as u128;
        prop_assert_eq!(pages(first, count, total), fits.then(|| first..first + count));
    }

    #[test]
    fn bytes_are_the_range_cut_at_the_end(
        position in any_i64(), length in any_usize(), size in any_usize(),
    ) {
        let inside = position >= 0 && (position as u128) < size as u128;
        let end = (position as u128).wrapping_add(length as u128).min(size as u128);
        let expected = inside.then_some(position as usize..end as usize);
        prop_assert_eq!(bytes(position, length, size), expected);
    }
}
