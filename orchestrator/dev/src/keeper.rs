//! One thread that lives as long as the lab does, and does all that must not wait for the caller's runtime.

use std::io;
use std::thread::JoinHandle;

use tokio::sync::mpsc;

use crate::error::{Result, Tried};

type Job = Box<dyn FnOnce() + Send>;

/// A thread with a tokio runtime of its own. Services run here, so that a caller that blocks its own runtime is still
/// served; agents are spawned here, because the kernel kills them when the thread that spawned them ends.
#[derive(Debug)]
pub(crate) struct Keeper {
    jobs: Option<mpsc::UnboundedSender<Job>>,
    thread: Option<JoinHandle<()>>,
}

/// Gives the keeper work; does not keep it alive.
#[derive(Debug, Clone)]
pub(crate) struct KeeperHandle {
    jobs: mpsc::WeakUnboundedSender<Job>,
}

impl Keeper {
    pub(crate) fn start(name: &str) -> Result<(Self, KeeperHandle)> {
        let (jobs, mut inbox) = mpsc::unbounded_channel::<Job>();
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().tried(|| "start a tokio runtime".to_owned())?;
        let thread = std::thread::Builder::new()
            .name(format!("lab-{name}"))
            .spawn(move || {
                runtime.block_on(async {
                    while let Some(job) = inbox.recv().await {
                        job();
                    }
                });
            })
            .tried(|| "start the lab's thread".to_owned())?;
        let handle = KeeperHandle { jobs: jobs.downgrade() };
        let keeper = Self { jobs: Some(jobs), thread: Some(thread) };
        Ok((keeper, handle))
    }
}

impl KeeperHandle {
    /// Runs `work` on the keeper's thread, inside its runtime, and waits. Never call it from that thread.
    pub(crate) fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
        let ended = || io::Error::new(io::ErrorKind::BrokenPipe, "the lab has been stopped");
        let (answer, answered) = std::sync::mpsc::sync_channel(1);
        let job = Box::new(move || {
            let _nobody_waits = answer.send(work());
        });
        let jobs = self.jobs.upgrade().ok_or_else(ended)?;
        jobs.send(job).map_err(|_| ended())?;
        drop(jobs);
        answered.recv().map_err(|_| ended())
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::warn!("lab thread panicked");
        }
    }
}
