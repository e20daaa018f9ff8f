//! Keeps the agent small: the rules of ten thousand exclusions are compiled in some twenty megabytes, which are needed for a moment.
//!
//! glibc keeps what was freed, for each thread apart; other C libraries have no such calls and no such need.

// These calls take no pointers, and may be made at any time by any thread (mallopt(3), malloc_trim(3): MT-Safe).
#![allow(unsafe_code)]

/// Free memory that the heap keeps: taking pages from the kernel anew takes time on the way of an order.
const KEPT: i32 = 2 << 20;

/// One heap for all threads, which seldom want memory at the same time, and which keeps a little. To be called before there are others.
pub fn one_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: see the top of this file.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_TOP_PAD, KEPT);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 2 * KEPT);
        libc::mallopt(libc::M_MMAP_THRESHOLD, KEPT);
    }
}

/// Hands free pages to the kernel.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: see the top of this file.
    unsafe {
        libc::malloc_trim(0);
    }
}
