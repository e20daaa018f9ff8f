//! Programs on devices and sockets that see or send frames beside the rules: takes off what came since the host is isolated, names what stays.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::Duration;

use portcullis_agent_core::record::{Programs, StoredRecord};
use portcullis_schemas::events::{Posture, StateCause, Tamper};
use tokio::time::Instant;

use super::Agent;
use super::guard::Found;
use crate::host::clock::Clock;
use crate::watch::af_xdp;
use crate::watch::programs::{self, Listed, Program};

/// What the kernel tells nobody of is asked for this often, and less often where asking takes long: at most one part in a hundred of one processor.
const POLL: Duration = Duration::from_millis(100);
const SHARE: u32 = 100;
/// How often a list is made before the rest is left to the next look: a storm must leave time for everything else.
const ROUNDS: usize = 4;
/// What has gone is told after this, and not more often.
const END: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));
/// What a state event names of each.
const NAMED: usize = 8;

/// What is beside the rules of an isolation now.
#[derive(Debug, Default)]
pub(super) struct Attached {
    /// By id, as they were listed last: what was there before the isolation.
    before: BTreeMap<String, String>,
    /// What came since and cannot be taken off, with the reason.
    stuck: BTreeMap<String, String>,
    /// They come faster than they are taken off.
    raging: bool,
    sockets: u64,
    unlisted: Option<String>,
    /// Why tcx cannot be asked for, as where this host is a container: its own root cannot attach there either.
    unseen: Option<String>,
    /// Ids of those that were asked for last.
    quiet: Vec<String>,
    poll: Option<Instant>,
    /// What the last state event named, and when the next one is to say that it is otherwise.
    told: Vec<String>,
    tell: Option<Instant>,
    last: Option<Instant>,
    /// What was there before has been told.
    introduced: bool,
}

impl Attached {
    /// All that passes the rules by, for people.
    pub(super) fn leaks(&self) -> Vec<String> {
        let before = self
            .before
            .values()
            .map(|what| format!("{what} sees frames before the rules do; it was attached before the isolation"));
        let unseen = self.unseen.as_ref().map(|error| format!("tcx programs on network devices cannot be listed: {error}"));
        self.problems().into_iter().chain(unseen).chain(some(before)).collect()
    }

    /// What should not be so while the host is isolated.
    pub(super) fn problems(&self) -> Vec<String> {
        let mut found = some(self.stuck.values().cloned());
        if self.raging {
            found.push("programs are attached to network devices faster than they are removed".to_owned());
        }
        found.extend(self.open_sockets());
        found.extend(self.unlisted.as_ref().map(|error| format!("programs on network devices cannot be listed: {error}")));
        found
    }

    pub(super) fn due(&self) -> Option<Instant> {
        self.poll.into_iter().chain(self.tell).min()
    }

    /// A state event names these.
    pub(super) fn told(&mut self, leaks: Vec<String>) {
        self.told = leaks;
    }

    fn open_sockets(&self) -> Option<String> {
        (self.sockets > 0).then(|| format!("{} AF_XDP socket(s) are open: frames that they send pass no rule", self.sockets))
    }

    /// True: it is off. What stays is named, and told when it is first found.
    fn remove(&mut self, program: &Program, found: &mut Found) -> bool {
        let Program { what, id, .. } = program;
        match programs::remove(program) {
            Err(error) if !is_gone(&error) => {
                let text = format!("{what} sees frames before the rules do and cannot be removed: {error}");
                let was_known = self.stuck.insert(id.clone(), text.clone()).is_some();
                found.attached((!was_known).then_some(text));
                false
            }
            _ => {
                self.stuck.remove(id);
                found.attached([format!("{what} saw frames before the rules did; it was removed")]);
                true
            }
        }
    }

    fn list_failed(&mut self, error: &io::Error) -> Option<String> {
        let is_new = self.unlisted.replace(error.to_string()).is_none();
        is_new.then(|| format!("the programs on the network devices cannot be listed: {error}"))
    }
}

fn some(all: impl Iterator<Item = String>) -> Vec<String> {
    let mut found: Vec<_> = all.collect();
    let more = found.len().saturating_sub(NAMED);
    found.truncate(NAMED);
    if more > 0 {
        found.push(format!("{more} more programs on network devices"));
    }
    found
}

impl Agent {
    /// What is on devices as the gate drops; None where that cannot be known, and where the host is isolated already: what comes then is never known.
    pub(super) fn programs_before(&mut self) -> Option<Programs> {
        if self.actual.posture != Posture::Open {
            return None;
        }
        let listed = match programs::list() {
            Ok(listed) => listed.programs,
            Err(error) => {
                tracing::error!(%error, "programs on network devices cannot be listed: all that are found later are removed");
                return None;
            }
        };
        let ids = listed.iter().map(|program| program.id.clone()).collect();
        let before = listed.into_iter().map(|program| (program.id, program.what)).collect();
        self.upkeep.attached = Attached { before, sockets: sockets(), ..Attached::default() };
        Some(Programs { boot_id: self.clock.boot_id().to_owned(), ids })
    }

    /// Removes what came since the host is isolated, and goes on while more comes, in bounds; each round decides from one list. What was there
    /// before stays: it is somebody's who may need it after the release.
    pub(super) fn take_off(&mut self, mut heard: Vec<Program>) {
        let known = known(self.machine.stored(), &self.clock);
        heard.retain(|program| !known.contains(&program.id));
        let (attached, found) = (&mut self.upkeep.attached, &mut self.upkeep.found);
        for _ in 0..ROUNDS {
            let Listed { programs, unseen } = match programs::list() {
                Ok(listed) => listed,
                Err(error) => return found.attached(attached.list_failed(&error)),
            };
            attached.unlisted = None;
            attached.unseen = unseen.map(|error| error.to_string());
            let (before, new): (Vec<_>, Vec<_>) = programs.into_iter().partition(|program| known.contains(&program.id));
            attached.before = before.into_iter().map(|program| (program.id, program.what)).collect();
            attached.stuck.retain(|id, _| new.iter().any(|program| program.id == *id));
            // What is not listed any more may have another one in its place, so it is not removed.
            let gone = heard.drain(..).filter(|heard| new.iter().all(|program| program.id != heard.id));
            found.attached(gone.map(|program| format!("{} saw frames before the rules did; it is gone", program.what)));
            attached.raging = false;
            for program in &new {
                attached.raging |= attached.remove(program, found);
            }
            // The last word is that of a list with nothing new in it.
            if !attached.raging {
                return;
            }
        }
    }

    /// What was there already when the gate dropped is said once, and stays.
    pub(super) fn introduce_attached(&mut self) {
        if std::mem::replace(&mut self.upkeep.attached.introduced, true) {
            return;
        }
        self.take_off(Vec::new());
        let attached = &mut self.upkeep.attached;
        attached.sockets = sockets();
        let before = attached.before.values().map(|what| format!("{what} sees frames before the rules do; it was there before"));
        let standing: Vec<_> = attached.open_sockets().into_iter().chain(before).collect();
        let restored = standing.is_empty() && attached.problems().is_empty();
        let (mut what, times) = self.upkeep.found.take_attached();
        what.extend(standing);
        what.truncate(NAMED);
        self.tampered(Tamper { what, times: times.max(1), restored, ..Tamper::default() });
    }

    /// Asks for what the kernel tells nobody of, when it is time, and says when something has ended.
    pub(super) fn watch_attached(&mut self) {
        if self.actual.posture != Posture::Isolated || !self.upkeep.attached.introduced {
            return;
        }
        let start = Instant::now();
        if self.upkeep.attached.poll.is_none_or(|poll| poll <= start) {
            let before = busy();
            self.poll_attached();
            self.upkeep.attached.poll = Some(start + POLL.max(busy().saturating_sub(before) * SHARE));
        }
        let leaks = self.upkeep.attached.leaks();
        let attached = &mut self.upkeep.attached;
        if leaks == attached.told {
            attached.tell = None;
        } else if attached.tell.is_none() {
            let soon = start + END.0;
            attached.tell = Some(attached.last.map_or(soon, |last| soon.max(last + END.1)));
        }
        if attached.tell.take_if(|tell| *tell <= start).is_some() {
            attached.last = Some(start);
            self.report(&self.machine.report(StateCause::Check));
        }
    }

    fn poll_attached(&mut self) {
        let known = known(self.machine.stored(), &self.clock);
        let attached = &mut self.upkeep.attached;
        match programs::quiet().map(|quiet| quiet.programs.into_iter().map(|program| program.id).collect::<Vec<_>>()) {
            Ok(quiet) => {
                let is_new = quiet.iter().any(|id| !known.contains(id) && !attached.stuck.contains_key(id));
                let before = std::mem::replace(&mut attached.quiet, quiet);
                if is_new || before != attached.quiet {
                    self.take_off(Vec::new());
                }
            }
            Err(error) => self.upkeep.found.attached(attached.list_failed(&error)),
        }
        self.count_sockets();
        if self.upkeep.found.has_attached() {
            self.look_soon(Duration::ZERO);
        }
    }

    pub(super) fn count_sockets(&mut self) {
        let attached = &mut self.upkeep.attached;
        if std::mem::replace(&mut attached.sockets, sockets()) < attached.sockets {
            self.upkeep.found.attached(attached.open_sockets());
        }
    }
}

/// Of this boot alone: in another one, other programs have these ids.
fn known<'a>(stored: &'a StoredRecord, clock: &Clock) -> &'a BTreeSet<String> {
    static NONE: BTreeSet<String> = BTreeSet::new();
    let frozen = stored.record().and_then(|record| record.frozen.as_ref());
    let programs = frozen.and_then(|frozen| frozen.programs.as_ref()).filter(|programs| programs.boot_id == clock.boot_id());
    programs.map_or(&NONE, |programs| &programs.ids)
}

/// A kernel without /proc here lists nothing else either, and that is said.
fn sockets() -> u64 {
    af_xdp::open().unwrap_or_default()
}

/// Time of a processor that this thread has used: what others use beside it does not make asking dearer.
fn busy() -> Duration {
    rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime).try_into().unwrap_or_default()
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV))
}
