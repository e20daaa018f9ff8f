//! The thread on which rules reach the kernel and are read back: a kernel or an nft that does not answer holds up nothing else.

use std::net::SocketAddr;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::{Duration, Instant};

use portcullis_agent_core::gate::Gate;
use portcullis_agent_core::machine::{Activation, Isolation};
use portcullis_agent_core::verify::Passed;
use portcullis_schemas::Timestamp;
use portcullis_schemas::events::{Evidence, Level, Posture};

use crate::firewall::enforce::{Enforcer, GoneDevice, Outcome};
use crate::parallel::Thread;
use crate::watch::KernelChanges;

/// What the thread is asked for; [`Job::Flush`] and [`Job::GiveMemoryBack`] have no answer among the inputs.
#[derive(Debug)]
pub enum Job {
    Prepare(Box<Isolation>),
    Activate(Box<Isolation>),
    Compare {
        isolation: Box<Isolation>,
        activate: bool,
    },
    Release,
    /// Something was heard that may concern what is in force.
    Revert(Box<KernelChanges>),
    /// What each exclusion has let pass is counted.
    Count,
    GiveMemoryBack,
    Flush(SyncSender<()>),
}

/// What became of a job, and what is in force behind it.
#[derive(Debug)]
pub struct Done {
    pub actual: ActualState,
    pub result: Result,
}

#[derive(Debug)]
pub enum Result {
    Prepared,
    Activated(Activated),
    Compared(Compared),
    Released,
    Reverted(Box<Reversal>),
    Counted { gate: Box<Gate>, passed: Vec<Option<Passed>> },
}

/// What is in force, as the loop knows it.
#[derive(Clone, Debug)]
pub struct ActualState {
    pub posture: Posture,
    pub level: Level,
    pub since: Timestamp,
    pub evidence: Evidence,
    /// Why the desired state is not in force, or not wholly.
    pub error: Option<String>,
    /// The number by which the kernel names the socket that changes rules.
    pub port: Option<u32>,
    /// The brokers' addresses that pass.
    pub control: Vec<SocketAddr>,
    /// From the last wish to isolate until the rules were in force.
    pub took: Duration,
}

#[derive(Debug)]
pub struct Activated {
    pub activation: Activation,
    /// What somebody had changed before the rules were read back, now that it is right, and for how long at most it was so.
    pub changed: (Vec<String>, Option<Duration>),
    /// A device has left meanwhile.
    pub has_gone: bool,
}

#[derive(Debug)]
pub struct Compared {
    /// What differs, for people.
    pub what: Vec<String>,
    pub activated: Option<Activated>,
    /// From the look until the rules were in force again; None where they were not touched, or by request.
    pub took: Option<Duration>,
    /// Devices that have left since the last look.
    pub gone: Vec<GoneDevice>,
}

/// What was done at once about a disturbance.
#[derive(Debug)]
pub struct Reversal {
    pub heard: KernelChanges,
    /// Rules were written for devices that came.
    pub came: bool,
    /// Devices are others than those that the rules cover.
    pub devices: bool,
    /// Rules were written again.
    pub restored: bool,
    /// Why they could not be.
    pub refused: Option<String>,
    pub took: Duration,
    /// Devices that have left and were not reported yet.
    pub gone: Vec<GoneDevice>,
}

/// The way to the thread. It takes all jobs, and ends with the process.
pub struct Worker(Thread<Job>);

impl Worker {
    /// `hand_in` takes each result.
    pub fn start(mut enforcer: Enforcer, hand_in: impl Fn(Done) + Send + 'static) -> Self {
        Self(Thread::start("rules", move |job| {
            if let Some(result) = work(&mut enforcer, job) {
                hand_in(Done { actual: ActualState::of(&enforcer), result });
            }
        }))
    }

    pub fn send(&self, job: Job) {
        self.0.send(job);
    }

    /// Waits until all is done, and no longer than this.
    pub fn flush(&self, most: Duration) -> bool {
        let (to, done) = sync_channel(1);
        self.send(Job::Flush(to));
        done.recv_timeout(most).is_ok()
    }
}

impl ActualState {
    pub fn of(enforcer: &Enforcer) -> Self {
        Self {
            posture: enforcer.posture,
            level: enforcer.level,
            since: enforcer.since,
            evidence: enforcer.evidence.clone(),
            error: enforcer.error.clone(),
            port: enforcer.port(),
            control: enforcer.gate().map(|gate| gate.control.clone()).unwrap_or_default(),
            took: enforcer.took,
        }
    }
}

/// None: there is nothing to say of it.
fn work(enforcer: &mut Enforcer, job: Job) -> Option<Result> {
    Some(match job {
        Job::Prepare(isolation) => {
            enforcer.prepare(&isolation.gate);
            Result::Prepared
        }
        Job::Activate(isolation) => Result::Activated(activate(enforcer, &isolation.gate)),
        Job::Compare { isolation, activate } => Result::Compared(compare(enforcer, &isolation.gate, activate)),
        Job::Release => {
            enforcer.open();
            Result::Released
        }
        Job::Revert(heard) => Result::Reverted(Box::new(revert(enforcer, *heard))),
        Job::Count => {
            let gate = Box::new(enforcer.gate().cloned().unwrap_or_default());
            let passed = enforcer.passed();
            enforcer.give_memory_back();
            Result::Counted { gate, passed }
        }
        Job::GiveMemoryBack => {
            enforcer.give_memory_back();
            return None;
        }
        Job::Flush(done) => {
            let _ = done.send(());
            return None;
        }
    })
}

fn activate(enforcer: &mut Enforcer, gate: &Gate) -> Activated {
    let whole = enforcer.isolate(gate) == Outcome::Done;
    // A device that went while an order was carried out is told like any other.
    let changed = if whole { enforcer.put_right() } else { (Vec::new(), None) };
    let in_force = enforcer.gate();
    let activation = Activation {
        enforced: enforcer.posture,
        whole,
        proof: in_force.and_then(|gate| gate.proof),
        standing: in_force.map(|gate| gate.standing.clone()).unwrap_or_default(),
        error: enforcer.error.clone(),
    };
    Activated { activation, changed, has_gone: !enforcer.gone.is_empty() }
}

fn compare(enforcer: &mut Enforcer, gate: &Gate, always: bool) -> Compared {
    let start = Instant::now();
    let mut what = Vec::new();
    let differs = !always
        && match enforcer.look() {
            Ok(look) => {
                what.extend(look.differences.iter().map(ToString::to_string));
                !look.is_whole()
            }
            // Not being able to look may be somebody's doing: enforcing again shows.
            Err(error) => {
                what.push(format!("rules in force cannot be read back: {error}"));
                true
            }
        };
    let looked = start.elapsed();
    let mut activated = (always || differs).then(|| activate(enforcer, gate));
    let took = differs.then(|| looked + enforcer.took);
    let gone = std::mem::take(&mut enforcer.gone);
    if let Some(activated) = &mut activated {
        // It is all of one look.
        activated.has_gone = false;
        what.append(&mut activated.changed.0);
    }
    enforcer.give_memory_back();
    Compared { what, activated, took, gone }
}

fn revert(enforcer: &mut Enforcer, mut heard: KernelChanges) -> Reversal {
    let start = Instant::now();
    if enforcer.port().is_none() {
        // It may have been this agent itself: only reading back tells.
        (heard.lost, heard.rules) = (heard.lost | heard.rules, false);
        heard.what.clear();
    }
    let covered = (!heard.rules && !heard.lost).then(|| enforcer.cover(&heard.links));
    let is_covered = covered.is_some_and(|covered| covered.only_came);
    let devices = heard.devices && !is_covered && enforcer.devices_differ();
    let restored = heard.rules || devices;
    let refused = restored.then(|| enforcer.restore().err()).flatten();
    let (came, gone) = (covered.is_some_and(|covered| covered.came), enforcer.gone.clone());
    Reversal { heard, came, devices, restored, refused, took: start.elapsed(), gone }
}
