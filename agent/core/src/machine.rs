//! One host's agent as a machine without IO: events in, effects out, and the time at which it wants to be woken.
//!
//! It holds the desired state and the whole way of a change: facts frozen, the record on the disk, rules staged, activated and read back, the
//! state event; and every way in which a step can fail or take too long. The shell executes effects and hands their answers in; it decides
//! nothing. The same events at the same times give the same effects.

mod decide;
mod disk;
mod event;
mod kernel;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use portcullis_schemas::HostId;
use portcullis_schemas::events::{Posture, StateCause};
use portcullis_schemas::exclusion::Exclusion;

use crate::deadline::Now;
use crate::gate::{Gate, Proof};
use crate::record::{Broker, FrozenFacts, Record, StoredRecord};
use disk::Disk;
pub use event::{Activation, CopyName, Effect, Event, Isolation, Lost, Refusal, Report, Written};
use kernel::Kernel;

/// What a machine is made of.
#[derive(Clone, Debug)]
pub struct Settings {
    pub me: HostId,
    pub agent_version: String,
    /// How long an order is waited for after the deadline.
    pub grace: Duration,
    /// What the posture file says.
    pub stored: StoredRecord,
    pub brokers: Vec<Broker>,
    /// The user whose connections are the control channel.
    pub agent_uid: u32,
    /// For rules of a record that has none.
    pub proof: Proof,
}

#[derive(Clone, Debug)]
pub struct Machine {
    settings: Settings,
    /// CLOCK_BOOTTIME at the start of this process: orders cannot have been heard before.
    listening_since_ms: u64,
    /// Why an isolation would cut this host off from every broker, so that no order would reach it any more. Where that is so, an open host is
    /// not isolated; a posture that is enforced is kept.
    cut_off: Option<String>,
    /// The isolation itself has cut the way to the broker: it then lasts for the grace time, where its order does not want it to stay.
    lost: Option<Lost>,
    /// The last order that was refused or answered, so that reading it again reports nothing new.
    answered: Option<u64>,
    facts: Facts,
    disk: Disk,
    kernel: Kernel,
    /// They wait for the attempt at the edition that they are about.
    reports: Vec<(u64, Report)>,
    /// What was reported of the last edition that the kernel has answered.
    enforced: Option<Report>,
    effects: VecDeque<Effect>,
}

/// Whether the record holds what this host knows of itself and of the places of its exclusions; counted like editions. At most one question is
/// unanswered.
#[derive(Clone, Debug, Default)]
struct Facts {
    wanted: u64,
    asked: Option<u64>,
    known: u64,
}

impl Machine {
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            listening_since_ms: 0,
            cut_off: None,
            lost: None,
            answered: None,
            facts: Facts::default(),
            disk: Disk::default(),
            kernel: Kernel::new(),
            reports: Vec::new(),
            enforced: None,
            effects: VecDeque::new(),
        }
    }

    pub fn handle(&mut self, event: Event<'_>, now: &Now) {
        match event {
            Event::Start { enforced, recorded } => self.start(enforced, recorded, now),
            Event::Order { subject, event, acknowledged } => self.order(subject, event, acknowledged, now),
            Event::LogEnds { generation } => self.log_ends(generation),
            Event::Tick => self.tick(now),
            Event::LocalRelease(actor) => self.local(actor, now),
            Event::Brokers(brokers) => self.move_brokers(brokers, now),
            Event::Names(names) => self.rename(names, now),
            Event::Groups(groups) => {
                let frozen = self.settings.stored.record_mut().and_then(|record| record.frozen.as_mut());
                if frozen.is_some_and(|frozen| std::mem::replace(&mut frozen.groups, groups.clone()) != groups) {
                    self.kernel.change(None);
                }
            }
            Event::CutOff(why) => self.cut_off = why,
            Event::Lost(lost) => self.lost = lost,
            Event::Acknowledged => self.acknowledged(now),
            Event::Compare { activate } => self.kernel.ask_to_compare(activate),
            Event::FrozenFacts(frozen) => self.freeze(*frozen),
            Event::Written { copy, serial, written } => self.disk.written(copy, serial, written, now.boot_ms),
            Event::Prepared => self.kernel.prepared(),
            Event::Activated(activation) | Event::Compared(Some(activation)) => self.activated(activation, now),
            Event::Compared(None) => self.kernel.nothing_differs(),
            Event::Released { enforced, error } => self.attempted(enforced, error.is_none(), error, now),
        }
        self.advance(now);
    }

    pub fn next_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// How long until [`Event::Tick`] is wanted at the latest. An earlier or a further one does no harm.
    pub fn next_wake(&self, now: &Now) -> Option<Duration> {
        let after = |at_ms: u64| Duration::from_millis(at_ms.saturating_sub(now.boot_ms));
        let kernel = self.kernel.wake().map(after);
        [self.deadline(now), self.disk.wake().map(after), kernel].into_iter().flatten().min()
    }

    pub fn me(&self) -> &HostId {
        &self.settings.me
    }

    /// The desired state.
    pub fn stored(&self) -> &StoredRecord {
        &self.settings.stored
    }

    pub fn brokers(&self) -> &[Broker] {
        &self.settings.brokers
    }

    pub fn generation(&self) -> u64 {
        self.stored().generation(self.me())
    }

    /// That of the last change that the kernel has answered.
    pub fn enforced_generation(&self) -> u64 {
        self.report(StateCause::Check).generation
    }

    /// The desired posture; what the kernel enforces may not be that yet.
    pub fn posture(&self) -> Posture {
        self.stored().posture()
    }

    /// The exclusions of the order in force, where one isolates.
    pub fn excluded(&self) -> &[Exclusion] {
        let record = self.stored().record().filter(|record| record.posture == Posture::Isolated);
        record.and_then(|record| record.order.as_ref()).map_or(&[], |order| &order.exclusions)
    }

    pub fn frozen(&self) -> Option<&FrozenFacts> {
        self.stored().record().and_then(|record| record.frozen.as_ref())
    }

    pub fn cut_off(&self) -> Option<&str> {
        self.cut_off.as_deref()
    }

    /// Why the record is not on the disk.
    pub fn disk_problem(&self) -> Option<&str> {
        self.disk.problem()
    }

    /// Whether the kernel has answered the last change.
    pub fn is_attempted(&self) -> bool {
        self.kernel.is_attempted()
    }

    /// Whether the kernel is at work on rules.
    pub fn is_at_work(&self) -> bool {
        self.kernel.is_at_work()
    }

    /// Whether the last attempt has failed and another one follows.
    pub fn is_failing(&self) -> bool {
        self.kernel.is_failing()
    }

    /// What the kernel was last asked for, reported for another reason than an order, a deadline or a start.
    pub fn report(&self, cause: StateCause) -> Report {
        if let Some(enforced) = self.enforced.as_ref().filter(|_| !self.is_attempted()) {
            return Report { cause, ..enforced.clone() };
        }
        self.report_desired(cause)
    }

    fn report_desired(&self, cause: StateCause) -> Report {
        match self.stored().record() {
            Some(record) => self.report_of(record, cause),
            None => Report {
                generation: 0,
                cause,
                opened: None,
                tamper: None,
                last_order: None,
                error: None,
                trace: Default::default(),
                incident: None,
            },
        }
    }

    /// The process ends: what waits for the second copy is to be written now. Whether nothing is on its way to the disk any more.
    pub fn finish(&mut self, now: &Now) -> bool {
        self.disk.hurry(now.boot_ms);
        self.write(now);
        self.disk.is_idle()
    }

    /// Begins all that waits for no answer.
    fn advance(&mut self, now: &Now) {
        self.ask_for_facts();
        self.disk.look(now.boot_ms);
        self.write(now);
        self.enforce(now);
        self.send_reports();
    }

    /// Those of an edition that was never attempted, since a later one was, are about nothing.
    fn send_reports(&mut self) {
        let (attempted, desired) = (self.kernel.last_attempted(), self.kernel.desired);
        let is_recorded = !self.needs_facts() && self.disk.lets_pass(self.kernel.needs);
        let is_due = |edition: u64| edition == attempted && (edition != desired || is_recorded);
        self.effects
            .extend(self.reports.extract_if(.., |(edition, _)| is_due(*edition)).map(|(_, report)| Effect::Report(report)));
        self.reports.retain(|(edition, _)| *edition >= attempted);
    }

    fn report_after(&mut self, report: Report) {
        self.reports.push((self.kernel.desired, report));
    }

    /// A release needs none.
    fn needs_facts(&self) -> bool {
        self.posture() == Posture::Isolated && self.facts.known != self.facts.wanted
    }

    /// An order isolates. On a host that is isolated already, or about to be, it does not wait for a second answer: orders that follow one another
    /// would keep the host open. Names that it adds are looked up afterwards.
    fn want_facts(&mut self, was: Posture) {
        if was == Posture::Open || self.facts.asked.is_none() {
            self.facts.wanted += 1;
        }
    }

    fn ask_for_facts(&mut self) {
        if !self.needs_facts() || self.facts.asked.is_some() {
            return;
        }
        self.facts.asked = Some(self.facts.wanted);
        let (known, exclusions) = (self.frozen().cloned().map(Box::new), self.excluded().to_vec());
        self.effects.push_back(Effect::FreezeFacts { known, exclusions });
    }

    fn freeze(&mut self, frozen: FrozenFacts) {
        let Some(asked) = self.facts.asked.take() else { return };
        self.facts.known = asked;
        if self.needs_facts() {
            // They are of an isolation that has ended meanwhile.
            return;
        }
        let (brokers, agent_uid) = (self.settings.brokers.clone(), self.settings.agent_uid);
        if let Some(record) = self.settings.stored.record_mut().filter(|record| record.posture == Posture::Isolated) {
            record.frozen = Some(FrozenFacts { brokers, agent_uid, whole_by: None, ..frozen });
        }
    }

    fn write(&mut self, now: &Now) {
        if self.needs_facts() {
            return;
        }
        let StoredRecord::Known(record) = &mut self.settings.stored else { return };
        let Some(copy) = self.disk.next(now.boot_ms) else { return };
        // The later one of two copies is known by this.
        record.serial += u64::from(copy == CopyName::B);
        self.disk.begin(copy, record.serial, now.boot_ms);
        self.effects.push_back(Effect::WriteState { copy, record: record.clone() });
    }

    /// Nothing is activated before it is on the disk, if that answers in time; what takes long is staged meanwhile. What the host opens by itself is
    /// on the disk first, however long that takes, since nothing would repeat it. A release by an order goes beside the disk: should it not come
    /// there, the host is isolated again at the next start, and the order comes again.
    fn enforce(&mut self, now: &Now) {
        if self.needs_facts() {
            return;
        }
        let isolates = self.posture() == Posture::Isolated;
        if !self.kernel.is_due(now.boot_ms) {
            if isolates
                && self.kernel.is_attempted()
                && let Some(activate) = self.kernel.compare()
            {
                let isolation = Box::new(self.isolation(now));
                self.effects.push_back(Effect::Compare { isolation, activate });
            }
            return;
        }
        if !isolates {
            let by_itself = self.stored().record().is_some_and(|record| record.opened.is_some());
            if !by_itself || self.disk.is_final(self.kernel.needs) {
                self.kernel.release();
                self.effects.push_back(Effect::Release);
            }
        } else if self.kernel.enforced == Posture::Open && !self.kernel.is_staged() && !self.disk.is_final(self.kernel.needs) {
            self.kernel.prepare();
            self.effects.push_back(Effect::Prepare(Box::new(self.isolation(now))));
        } else if self.disk.lets_pass(self.kernel.needs) {
            self.kernel.activate();
            self.effects.push_back(Effect::Activate(Box::new(self.isolation(now))));
        }
    }

    fn activated(&mut self, activation: Activation, now: &Now) {
        let Activation { enforced, whole, proof, standing, error } = activation;
        let is_current = self.kernel.works_on_desired();
        let version = &self.settings.agent_version;
        if enforced == Posture::Isolated
            && let Some(frozen) = self.settings.stored.record_mut().and_then(|record| record.frozen.as_mut())
        {
            let whole_by = (whole && is_current).then(|| version.clone());
            let proof = proof.or(frozen.proof);
            if frozen.standing != standing || frozen.whole_by != whole_by || frozen.proof != proof {
                (frozen.standing, frozen.whole_by, frozen.proof) = (standing, whole_by, proof);
                self.disk.second(now.boot_ms);
            }
        }
        self.attempted(enforced, whole, error, now);
    }

    fn attempted(&mut self, enforced: Posture, whole: bool, error: Option<String>, now: &Now) {
        self.kernel.enforced = enforced;
        let desired = self.report_desired(StateCause::Check);
        let due =
            self.reports.iter().rev().find(|(edition, _)| *edition == self.kernel.desired).map(|(_, report)| report.clone());
        let report = due.unwrap_or_else(|| desired.clone());
        let again = self.kernel.attempted(&self.settings.me, whole, error, report, now.boot_ms);
        self.reports.extend(again.map(|report| (self.kernel.desired, report)));
        if self.is_attempted() {
            self.enforced = Some(desired);
        }
    }

    fn isolation(&self, now: &Now) -> Isolation {
        let Settings { brokers, agent_uid, proof, .. } = &self.settings;
        let bare = FrozenFacts { brokers: brokers.clone(), agent_uid: *agent_uid, proof: Some(*proof), ..FrozenFacts::default() };
        let Some(record) = self.stored().record() else {
            return Isolation { gate: bare.bare(), problems: Vec::new(), opens: Default::default() };
        };
        let (gate, problems) = record.gate(now);
        // A record from before this start may name brokers that are no longer configured.
        let gate = Gate { control: bare.bare().control, agent_uid: *agent_uid, proof: gate.proof.or(Some(*proof)), ..gate };
        Isolation { gate, problems, opens: record.opens(now) }
    }

    /// Takes a record as the desired state. What is enforced changes, and `reports` follow the attempt.
    fn adopt(&mut self, mut record: Record, reports: impl IntoIterator<Item = Report>, now: &Now) {
        if let Some(frozen) = &mut record.frozen {
            frozen.brokers.clone_from(&self.settings.brokers);
            frozen.agent_uid = self.settings.agent_uid;
            // Until they have been read back.
            frozen.whole_by = None;
        }
        self.kernel.change(Some(record.serial));
        self.keep(record, now);
        reports.into_iter().for_each(|report| self.report_after(report));
    }

    /// The same where what is enforced stays as it is.
    fn keep(&mut self, record: Record, now: &Now) {
        self.disk.require(record.serial, now.boot_ms);
        self.settings.stored = StoredRecord::Known(Box::new(record));
    }

    fn move_brokers(&mut self, brokers: Vec<Broker>, now: &Now) {
        if brokers == self.settings.brokers {
            return;
        }
        self.settings.brokers = brokers;
        match self.stored() {
            StoredRecord::Known(record) if record.posture == Posture::Isolated => {
                let next = Record { serial: record.serial + 1, ..(**record).clone() };
                self.adopt(next, [], now);
            }
            StoredRecord::Lost => self.kernel.change(None),
            StoredRecord::Known(_) | StoredRecord::Never => {}
        }
    }

    fn rename(&mut self, names: BTreeMap<String, Vec<IpAddr>>, now: &Now) {
        let sets = |names: &BTreeMap<String, Vec<IpAddr>>| -> Vec<(String, BTreeSet<IpAddr>)> {
            names.iter().map(|(name, found)| (name.clone(), found.iter().copied().collect())).collect()
        };
        let Some(record) = self.stored().record().filter(|record| record.posture == Posture::Isolated) else { return };
        let Some(frozen) = record.frozen.as_ref().filter(|frozen| sets(&names) != sets(&frozen.names)) else { return };
        let frozen = Some(FrozenFacts { names, ..frozen.clone() });
        let next = Record { serial: record.serial + 1, frozen, ..record.clone() };
        self.adopt(next, [], now);
    }

    /// An opening by this host that the broker has stored need not be reported at the next start.
    fn acknowledged(&mut self, now: &Now) {
        if !self.kernel.is_attempted() || !self.reports.is_empty() {
            return;
        }
        let opened = self.settings.stored.record_mut().and_then(|record| record.opened.as_mut());
        if let Some(opened) = opened.filter(|opened| !opened.told) {
            opened.told = true;
            self.disk.second(now.boot_ms);
        }
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
