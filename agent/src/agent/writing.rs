//! The posture file on a disk that does not answer: an order is carried out all the same.

use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError, channel};
use std::thread;
use std::time::Duration;

use portcullis_agent_core::record::Record;
use tokio::time::Instant;

use super::Agent;
use crate::posture_file::{Which, Written};

/// A disk that is only busy has answered by then.
const PATIENCE: Duration = Duration::from_millis(250);
const LOOK_AGAIN: Duration = Duration::from_millis(250);
const SLOW: &str = "the posture is not on the disk yet, a restart may not know it: the disk does not answer";

/// The first copy on its way to the disk.
#[derive(Debug, Default)]
pub(super) struct Writing {
    pending: Option<Receiver<io::Result<Written>>>,
    /// What is on its way is not what stands any more.
    is_old: bool,
}

impl Agent {
    /// Begins to write the first copy. None: an earlier one is still on its way.
    pub(super) fn begin_writing(&mut self, record: &Record) -> Option<Receiver<io::Result<Written>>> {
        if self.upkeep.writing.pending.is_some() && !self.has_written() {
            self.upkeep.writing.is_old = true;
            return None;
        }
        let (to, from) = channel();
        let (file, copy, here) = (self.file.clone(), record.clone(), to.clone());
        let spawned = thread::Builder::new().name("posture".into()).spawn(move || to.send(file.write(Which::A, &copy)));
        if spawned.is_err() {
            let _ = here.send(self.file.write(Which::A, record));
        }
        Some(from)
    }

    /// Takes what became of it in time, or keeps waiting for it while everything else goes on.
    pub(super) fn written_or_pending(&mut self, writing: Option<Receiver<io::Result<Written>>>, waited: Option<Waited>) {
        match waited {
            Some(Ok(written)) => self.written(Which::A, written),
            Some(Err(RecvTimeoutError::Timeout)) => {
                self.upkeep.writing = Writing { pending: writing, is_old: false };
                self.is_slow();
            }
            Some(Err(RecvTimeoutError::Disconnected)) => self.written(Which::A, Err(io::Error::other("the writer has ended"))),
            None => self.is_slow(),
        }
    }

    fn is_slow(&mut self) {
        tracing::error!("{SLOW}");
        self.upkeep.unwritten = Some(SLOW.to_owned());
    }

    /// Whether nothing is on its way to the disk any more; looks again later where something is.
    pub(super) fn has_written(&mut self) -> bool {
        let Some(pending) = &self.upkeep.writing.pending else { return true };
        let written = match pending.try_recv() {
            Ok(written) => written,
            Err(TryRecvError::Disconnected) => Err(io::Error::other("the writer has ended")),
            Err(TryRecvError::Empty) => {
                self.upkeep.settle = Some(Instant::now() + LOOK_AGAIN);
                return false;
            }
        };
        // An old one leaves the posture unwritten, and both copies are written again.
        if !std::mem::take(&mut self.upkeep.writing).is_old {
            self.written(Which::A, written);
        }
        true
    }

    /// Waits for the disk, however long it takes.
    pub(super) fn wait_for_disk(&mut self) {
        if let Some(pending) = self.upkeep.writing.pending.take() {
            let _ = pending.recv();
        }
        self.upkeep.writing = Writing::default();
    }
}

pub(super) type Waited = Result<io::Result<Written>, RecvTimeoutError>;

pub(super) fn wait(writing: Option<&Receiver<io::Result<Written>>>) -> Option<Waited> {
    writing.map(|writing| writing.recv_timeout(PATIENCE))
}
