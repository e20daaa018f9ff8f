//! Two things at the same time, for as long as both take; and threads that take jobs.

use std::panic::resume_unwind;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, PoisonError};
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

type Work<J> = Box<dyn FnMut(J) + Send>;

/// A thread that does one job after the other; where none can be had, whoever sends a job does it.
pub struct Thread<J>(Way<J>);

enum Way<J> {
    There(Sender<J>),
    Here(Mutex<Work<J>>),
}

impl<J: Send + 'static> Thread<J> {
    pub fn start(name: &str, work: impl FnMut(J) + Send + 'static) -> Self {
        let ((to, jobs), (give, given)) = (channel(), channel::<Work<J>>());
        let work: Work<J> = Box::new(work);
        let thread = thread::Builder::new().name(name.into()).spawn(move || {
            let Ok(work) = given.recv() else { return };
            jobs.into_iter().for_each(work);
        });
        match thread {
            Ok(_) => match give.send(work) {
                Ok(()) => Self(Way::There(to)),
                Err(kept) => Self(Way::Here(Mutex::new(kept.0))),
            },
            Err(error) => {
                tracing::warn!(%error, thread = name, "thread not started: its work holds up the agent's loop");
                Self(Way::Here(Mutex::new(work)))
            }
        }
    }

    pub fn send(&self, job: J) {
        match &self.0 {
            // It ends with the process.
            Way::There(to) => drop(to.send(job)),
            Way::Here(work) => work.lock().unwrap_or_else(PoisonError::into_inner)(job),
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn neither_waits_for_the_other_to_end() {
        let barrier = std::sync::Barrier::new(2);
        assert_eq!(super::both(|| (barrier.wait(), 1).1, || (barrier.wait(), 2).1), (1, 2));
    }

    #[test]
    fn a_thread_does_its_jobs_in_their_order_and_holds_up_nobody() {
        let (go, gone) = std::sync::mpsc::channel();
        let (done, jobs) = std::sync::mpsc::channel();
        let thread = super::Thread::start("test", move |job| {
            let _ = gone.recv();
            let _ = done.send(job);
        });
        (1..=3).for_each(|job| thread.send(job));
        assert!(jobs.try_recv().is_err());
        (1..=3).for_each(|_| go.send(()).unwrap());
        assert_eq!(jobs.iter().take(3).collect::<Vec<_>>(), [1, 2, 3]);
    }
}
