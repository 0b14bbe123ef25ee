//! What the matrix kernels share: results that several tasks write, ranges of them, and prefetching.

use std::marker::PhantomData;
use std::ops::Range;

/// A result of which tasks on several threads write different elements.
#[derive(Clone, Copy)]
pub(super) struct Shared<'a> {
    data: *mut f32,
    len: usize,
    borrow: PhantomData<&'a mut [f32]>,
}

// SAFETY: the methods are unsafe to call, and their callers promise that no two threads touch one element.
unsafe impl Send for Shared<'_> {}
unsafe impl Sync for Shared<'_> {}

impl<'a> Shared<'a> {
    /// Shares `data`.
    pub fn new(data: &'a mut [f32]) -> Self {
        Self { data: data.as_mut_ptr(), len: data.len(), borrow: PhantomData }
    }

    /// How many elements there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// The elements `from..from + len`.
    ///
    /// # Safety
    /// They lie inside the result, and nobody else uses them while the slice lives.
    #[inline(always)]
    pub unsafe fn slice(&self, from: usize, len: usize) -> &'a mut [f32] {
        debug_assert!(from + len <= self.len);
        unsafe { std::slice::from_raw_parts_mut(self.data.add(from), len) }
    }
}

/// The least number of multiplications that is worth waking another thread for.
pub(super) const WORTH_A_THREAD: usize = 16 * 1024;

/// `0..n` as one range a thread, their bounds multiples of `step`; one range alone where `work` multiplications are too few.
pub(super) fn ranges(n: usize, step: usize, work: usize) -> Vec<Range<usize>> {
    let parts = if work < WORTH_A_THREAD { 1 } else { rayon::current_num_threads() };
    let size = n.div_ceil(parts).next_multiple_of(step);
    (0..n).step_by(size.max(1)).map(|from| from..n.min(from + size)).collect()
}

/// Asks for the cache line at `address`, which need not exist.
#[inline(always)]
pub(super) fn prefetch(address: *const f32) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: SSE is part of x86-64, and a prefetch never faults.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}
