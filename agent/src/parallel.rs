//! Two things at the same time, for as long as both take.

use std::panic::resume_unwind;
use std::thread;

/// Does `beside` on a thread of its own, and `here` on this one; one after the other where no thread can be had.
pub fn both<A: Send, B>(beside: impl FnOnce() -> A + Send, here: impl FnOnce() -> B) -> (A, B) {
    let mut beside = Some(beside);
    let (there, here) = thread::scope(|scope| {
        let thread = thread::Builder::new().name("beside".into()).spawn_scoped(scope, || beside.take().map(|beside| beside()));
        let here = here();
        let there = thread.ok().and_then(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)));
        (there, here)
    });
    let there = there.or_else(|| beside.take().map(|beside| beside()));
    #[expect(clippy::expect_used, reason = "it is taken in one of the two places only, and given back there")]
    (there.expect("it was done, here or there"), here)
}

#[cfg(test)]
mod tests {
    #[test]
    fn neither_waits_for_the_other_to_end() {
        let barrier = std::sync::Barrier::new(2);
        assert_eq!(super::both(|| (barrier.wait(), 1).1, || (barrier.wait(), 2).1), (1, 2));
    }
}
