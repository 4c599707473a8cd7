// SPDX-License-Identifier: GPL-2.0
//! Values that a process shares with those that are forked from it.

use std::{marker::PhantomData, ops::Deref};

use super::memory::{Map, RW, SHARED, anonymous, page};

/// A value in shared memory, which begins as zeros.
pub struct Shared<T: Zeroed> {
    map: Map,
    value: PhantomData<T>,
}

/// What may be in such memory.
///
/// # Safety
///
/// Zeros are a value of the type. Whatever other processes do to it by a reference, they may do.
pub unsafe trait Zeroed: Sync {}

// SAFETY: as its elements.
unsafe impl<T: Zeroed, const N: usize> Zeroed for [T; N] {}

impl<T: Zeroed> Shared<T> {
    pub fn new() -> Self {
        Self::within(anonymous(Self::pages(), RW, SHARED))
    }

    /// In memory that the caller has mapped for it.
    pub fn within(map: Map) -> Self {
        assert!(Self::pages() * page() <= map.len() && align_of::<T>() <= page());
        Self {
            map,
            value: PhantomData,
        }
    }

    pub fn pages() -> usize {
        size_of::<T>().div_ceil(page())
    }
}

impl<T: Zeroed> Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: it is mapped as long as `self` lives, aligned, and began as zeros.
        unsafe { &*self.map.at(0).cast() }
    }
}
