//! The threads that write to the disk, and nothing else waits for them.

use std::io;
use std::path::PathBuf;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

use portcullis_agent_core::machine::{CopyName, Written};
use portcullis_agent_core::record::{Broker, Record};

use crate::disk::brokers;
use crate::disk::posture_file::{self, PostureFile};
use crate::failpoint::{hang, step};
use crate::parallel::Thread;

#[derive(Debug)]
pub enum Job {
    /// A copy of the record.
    Record { copy: CopyName, record: Box<Record> },
    /// A file of the outbox; None removes it.
    Outbox { path: PathBuf, body: Option<Vec<u8>> },
    /// Where the brokers' names were, for the next process. Without an answer.
    Brokers(Vec<Broker>),
    /// Answers when all before it is done.
    Flush(SyncSender<()>),
}

#[derive(Debug)]
pub enum Done {
    Record { copy: CopyName, serial: u64, written: Written },
    Outbox(io::Result<()>),
}

/// The way to two threads, so that the record does not wait for other files. They take all jobs, and end with the process.
pub struct Writer {
    records: Thread<Job>,
    others: Thread<Job>,
}

impl Writer {
    /// `hand_in` takes each result.
    pub fn start(file: PostureFile, hand_in: impl Fn(Done) + Clone + Send + 'static) -> Self {
        let start = |name| {
            let (file, hand_in) = (file.clone(), hand_in.clone());
            Thread::start(name, move |job| {
                hang("PORTCULLIS_HANG_DISK");
                if let Some(done) = work(&file, job) {
                    hand_in(done);
                }
            })
        };
        Self { records: start("posture"), others: start("files") }
    }

    pub fn send(&self, job: Job) {
        match job {
            Job::Record { .. } => self.records.send(job),
            Job::Outbox { .. } | Job::Brokers(_) | Job::Flush(_) => self.others.send(job),
        }
    }

    /// Waits until all is written, and no longer than this.
    pub fn flush(&self, most: Duration) -> bool {
        [&self.records, &self.others].into_iter().all(|thread| {
            let (to, done) = sync_channel(1);
            thread.send(Job::Flush(to));
            done.recv_timeout(most).is_ok()
        })
    }
}

/// None: there is nothing to say of it.
fn work(file: &PostureFile, job: Job) -> Option<Done> {
    match job {
        Job::Record { copy, record } => {
            let written = write(file, copy, &record);
            step("agent.persisted");
            Some(Done::Record { copy, serial: record.serial, written })
        }
        Job::Outbox { path, body } => Some(Done::Outbox(match body {
            Some(body) => posture_file::replace(&path, &body),
            None => posture_file::remove(&path),
        })),
        Job::Brokers(list) => {
            brokers::keep(file, &list);
            None
        }
        Job::Flush(done) => {
            let _ = done.send(());
            None
        }
    }
}

/// On a full disk everything goes on: the host is isolated all the same, and says that a reboot would not know it.
fn write(file: &PostureFile, copy: CopyName, record: &Record) -> Written {
    match file.write(copy, record) {
        Ok(posture_file::Written::Replaced) => Written::Replaced,
        Ok(posture_file::Written::InPlace(error)) => {
            Written::InPlace(format!("the posture is on the disk in one copy only: {error}; make space"))
        }
        Err(error) => {
            let path = file.path(copy);
            Written::Failed(format!("the posture is not on the disk, a restart may not know it: {}: {error}", path.display()))
        }
    }
}
