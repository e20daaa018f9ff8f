//! An agent of the model: the real machine, a disk with two copies and a kernel that are slow, fail and lie, and an outbox; it can die at any time.

use std::time::Duration;

use portcullis_agent_core::deadline::Now;
use portcullis_agent_core::gate::Proof;
use portcullis_agent_core::machine::{Activation, CopyName, Effect, Event, Machine, Report, Settings, Written};
use portcullis_agent_core::record::{self, Record, StoredRecord};
use portcullis_schemas::envelope;
use portcullis_schemas::events::{Evidence, Hello, InputKind, InputRef, Level, LocalActor, Order, Posture, State, StateCause};
use portcullis_schemas::{HostId, Timestamp, ids};

use crate::Defect;
use crate::broker::{Broker, time};
use crate::chance::Chance;

/// How long an agent waits for an order after a deadline.
pub const GRACE: Duration = Duration::from_secs(300);
/// Rules wait no longer for the disk.
const PATIENCE: i64 = 250;

pub struct Agent {
    machine: Machine,
    pub up: bool,
    /// What the kernel enforces, and what it has said that it does.
    pub kernel: Posture,
    view: Posture,
    since: Timestamp,
    disk: [Option<Vec<u8>>; 2],
    /// What the copies on the disk hold: encoded when they are needed only.
    written: [Option<Record>; 2],
    /// What disk and kernel were asked for, and when.
    asked: Vec<(i64, Effect)>,
    /// The highest generation of which a write has failed.
    failed: u64,
    /// The highest generation that the host has opened by itself, with that on the disk.
    opened: u64,
    outbox: Vec<(InputRef, State)>,
    saved: Vec<(InputRef, State)>,
    unsaved: bool,
    boot: u64,
    booted: i64,
    /// What its wall clock is off by.
    pub offset: i64,
    /// Its addresses, which may become another host's.
    pub ips: Vec<String>,
    /// Invariants that were broken since it was last asked.
    violations: Vec<String>,
    /// Orders on the live subject, with the time at which they arrive.
    pub live: Vec<(i64, usize)>,
    /// Its first receipt of the last generation; none where its clocks cannot tell.
    received: Option<(u64, i64)>,
}

impl Agent {
    pub fn new(me: HostId) -> Self {
        Self {
            machine: machine(me, StoredRecord::Never),
            up: true,
            kernel: Posture::Open,
            view: Posture::Open,
            since: time(0),
            disk: [None, None],
            written: [None, None],
            asked: Vec::new(),
            failed: 0,
            opened: 0,
            outbox: Vec::new(),
            saved: Vec::new(),
            unsaved: false,
            boot: 0,
            booted: 0,
            offset: 0,
            ips: Vec::new(),
            violations: Vec::new(),
            live: Vec::new(),
            received: None,
        }
    }

    pub fn violations(&mut self) -> std::vec::Drain<'_, String> {
        self.violations.drain(..)
    }

    pub fn me(&self) -> &HostId {
        self.machine.me()
    }

    pub fn generation(&self) -> u64 {
        self.machine.generation()
    }

    pub fn idle(&self, now: i64) -> bool {
        self.asked.is_empty() && !self.unsaved && self.outbox.is_empty() && !self.live.iter().any(|(at, _)| *at <= now)
    }

    /// What is wrong with the posture file of a host at rest.
    pub fn unrecorded(&self) -> Option<String> {
        let StoredRecord::Known(desired) = self.machine.stored() else { return None };
        let is_behind = |copy: &Option<Record>| {
            copy.as_ref().is_none_or(|copy| (copy.generation, copy.posture) != (desired.generation, desired.posture))
        };
        let behind = self.written.iter().position(is_behind)?;
        Some(format!("copy {behind} of {} is not of generation {}", self.me(), desired.generation))
    }

    /// Does one thing. `calm`: nothing is lost, slow or wrong any more.
    pub fn step(&mut self, broker: &mut Broker, chance: &mut Chance, calm: bool) {
        if !self.asked.is_empty() && (calm || chance.percent(80)) {
            let which = chance.below(self.asked.len() as u64) as usize;
            return self.answer(which, broker, chance, calm);
        }
        match chance.below(7) {
            0 => self.hear_live(broker, chance),
            1 => self.get(broker, chance, calm),
            2 => self.handle(Event::Tick, broker),
            3 => self.save(),
            4 => self.look(broker),
            _ => self.publish(broker, chance, calm),
        }
    }

    /// Looks for its last order, at its clock and at its rules, and does what follows.
    pub fn poll(&mut self, broker: &mut Broker, chance: &mut Chance) {
        self.get(broker, chance, true);
        self.answer_all(broker, chance);
        self.handle(Event::Tick, broker);
        self.answer_all(broker, chance);
        self.look(broker);
        self.answer_all(broker, chance);
    }

    fn answer_all(&mut self, broker: &Broker, chance: &mut Chance) {
        while !self.asked.is_empty() {
            self.answer(0, broker, chance, true);
        }
    }

    fn look(&mut self, broker: &Broker) {
        if self.view == Posture::Isolated {
            self.handle(Event::Compare { activate: false }, broker);
        }
    }

    pub fn local_release(&mut self, broker: &Broker) {
        if self.up {
            let actor = LocalActor { uid: 0, login_uid: None, tty: None, parent: None, reason: None };
            broker.say(|| format!("{} is opened by root", self.me()));
            self.handle(Event::LocalRelease(actor), broker);
        }
    }

    pub fn hello(&self, broker: &Broker) -> (InputRef, Hello) {
        let id = format!("hello-{}-{}", self.me(), broker.now);
        let key = InputRef { kind: InputKind::Hello, token: self.me().to_string(), source: "/agent".into(), id };
        let hello = Hello {
            host: self.me().clone(),
            hostname: self.me().to_string(),
            ips: self.ips.clone(),
            internal_ips: Vec::new(),
            os: "Linux".into(),
            kernel: "6.12".into(),
            agent_version: "0.1.0".into(),
            boot_id: "x".into(),
            instance: "x".into(),
            level: Level::Full,
            leaks: vec![],
            labels: Default::default(),
            roles: Vec::new(),
            generation: self.machine.enforced_generation(),
            posture: self.view,
            tells_last_order: true,
        };
        (key, hello)
    }

    /// The process dies; with `reboot` the kernel forgets as well. `harm` is done to the posture file.
    pub fn crash(&mut self, reboot: bool, harm: u64, broker: &Broker) {
        broker.say(|| format!("{} dies, reboot {reboot}, harm {harm}", self.me()));
        self.up = false;
        // What was on its way is done, or is not.
        for (_, effect) in std::mem::take(&mut self.asked) {
            match effect {
                Effect::WriteState { copy, record } if broker.step.is_multiple_of(3) => self.write(copy, *record),
                Effect::Activate(_) if broker.step.is_multiple_of(5) => self.kernel = Posture::Isolated,
                _ => {}
            }
        }
        self.live.clear();
        self.outbox.clone_from(&self.saved);
        self.unsaved = false;
        if reboot {
            self.boot += 1;
            self.booted = broker.now;
            self.kernel = Posture::Open;
            self.received = None;
        }
        self.disk =
            [0, 1].map(|copy| self.written[copy].as_ref().map(|record| record::encode(record).expect("a record is written")));
        let bad = |copy: &mut Option<Vec<u8>>| copy.iter_mut().for_each(|bytes| bytes.truncate(bytes.len() / 2));
        let word = |copy: &Option<Record>| copy.as_ref().map(|copy| (copy.generation, copy.posture, copy.opened.clone()));
        match harm {
            0 => self.disk.iter_mut().for_each(bad),
            1 => self.disk = [None, None],
            // One of two: the other one is as new, since two faults at once are more than is promised.
            2 if word(&self.written[0]) == word(&self.written[1]) => bad(&mut self.disk[chance_of(broker)]),
            _ => {}
        }
        if harm < 2 {
            self.opened = 0;
        }
    }

    pub fn restart(&mut self, broker: &Broker) {
        let copies = [0, 1].map(|copy| Ok(self.disk[copy].clone()));
        let (stored, _) = record::read(&copies[0], &copies[1], self.me());
        let recorded = record::says_isolated(&copies[0], &copies[1]);
        broker.say(|| format!("{} starts with generation {}", self.me(), stored.generation(self.me())));
        self.written = [0, 1].map(|copy| self.disk[copy].as_ref().and_then(|bytes| record::decode(bytes).ok()));
        if stored.record().is_none() {
            self.received = None;
        }
        self.machine = machine(self.me().clone(), stored);
        self.failed = 0;
        self.view = self.kernel;
        self.since = time(broker.now + self.offset);
        self.up = true;
        self.handle(Event::Start { enforced: self.kernel, recorded }, broker);
    }

    fn now(&self, broker: &Broker) -> Now {
        Now {
            wall: time(broker.now + self.offset),
            broker: Some(broker.wall()),
            boot_ms: (broker.now - self.booted) as u64,
            boot_id: format!("boot {}", self.boot),
        }
    }

    fn handle(&mut self, event: Event<'_>, broker: &Broker) {
        let now = self.now(broker);
        let before = word(self.machine.stored());
        self.machine.handle(event, &now);
        let after = word(self.machine.stored());
        if after != before {
            self.check_change(before, after, broker);
        }
        while let Some(effect) = self.machine.next_effect() {
            match effect {
                Effect::FreezeFacts { known, .. } => self.machine.handle(Event::FrozenFacts(known.unwrap_or_default()), &now),
                Effect::Report(report) => self.report(&report),
                Effect::Resend | Effect::Refuse(_) => {}
                Effect::Activate(_) | Effect::Release => {
                    self.check_record(&effect, broker);
                    self.asked.push((broker.now, effect));
                }
                Effect::WriteState { copy, ref record } => {
                    let (serial, lies) = (record.serial, is_answered_first(broker.defect, record));
                    self.asked.push((broker.now, effect));
                    if lies {
                        self.machine.handle(Event::Written { copy, serial, written: Written::Replaced }, &now);
                    }
                }
                Effect::Prepare(_) | Effect::Compare { .. } => self.asked.push((broker.now, effect)),
            }
        }
    }

    /// Disk or kernel has done something of what it was asked for, or says so.
    fn answer(&mut self, which: usize, broker: &Broker, chance: &mut Chance, calm: bool) {
        let (_, effect) = self.asked.swap_remove(which);
        let luck = if calm { 100 } else { chance.below(100) };
        let event = match effect {
            Effect::WriteState { copy, record } => {
                let (serial, answered) = (record.serial, is_answered_first(broker.defect, &record));
                let written = match luck {
                    0..8 => Written::Failed("the disk fails".into()),
                    8..12 => Written::InPlace("the disk is full".into()),
                    _ => Written::Replaced,
                };
                match written {
                    Written::Failed(_) => self.failed = self.failed.max(record.generation),
                    Written::InPlace(_) => self.write(CopyName::B, *record),
                    Written::Replaced => self.write(copy, *record),
                }
                if answered {
                    return;
                }
                Event::Written { copy, serial, written }
            }
            Effect::Prepare(_) => Event::Prepared,
            Effect::Activate(_) => Event::Activated(self.activate(luck, broker)),
            Effect::Compare { activate, .. } => {
                let differs = activate || self.kernel != Posture::Isolated;
                let forgets = broker.defect == Defect::ForgetsActivation;
                Event::Compared((differs && !forgets).then(|| self.activate(luck, broker)))
            }
            Effect::Release => {
                let works = luck >= 10;
                if works {
                    self.enforce(Posture::Open, broker);
                    if let StoredRecord::Known(record) = self.machine.stored()
                        && let Some(opened) = &record.opened
                        && self.failed < opened.generation
                    {
                        self.opened = opened.generation;
                    }
                }
                self.see(self.kernel, broker);
                Event::Released { enforced: self.kernel, error: (!works).then(|| "the kernel fails".into()) }
            }
            Effect::FreezeFacts { .. } | Effect::Report(_) | Effect::Resend | Effect::Refuse(_) => return,
        };
        self.handle(event, broker);
    }

    fn activate(&mut self, luck: u64, broker: &Broker) -> Activation {
        // What fails does nothing, or only half of it; what lies says that it has worked.
        let (works, says) = match luck {
            0..10 => (false, false),
            10..14 => (true, false),
            14..20 => (false, true),
            _ => (true, true),
        };
        if works {
            self.enforce(Posture::Isolated, broker);
        }
        let says = says || broker.defect == Defect::ForgetsActivation;
        let enforced = if says { Posture::Isolated } else { self.kernel };
        self.see(enforced, broker);
        Activation { enforced, whole: says, proof: None, standing: Vec::new(), error: (!says).then(|| "the kernel fails".into()) }
    }

    fn enforce(&mut self, posture: Posture, broker: &Broker) {
        if posture != self.kernel {
            broker.say(|| format!("{} is {}", self.me(), posture.as_str()));
            self.kernel = posture;
        }
    }

    fn see(&mut self, posture: Posture, broker: &Broker) {
        if posture != self.view {
            (self.view, self.since) = (posture, time(broker.now + self.offset));
        }
    }

    fn write(&mut self, copy: CopyName, record: Record) {
        self.written[match copy {
            CopyName::A => 0,
            CopyName::B => 1,
        }] = Some(record);
    }

    fn hear(&mut self, order: &Order, broker: &Broker) {
        if broker.defect == Defect::ObeysLower && order.generation < self.generation() {
            let before = word(self.machine.stored());
            let record = self.machine.stored().record().cloned().expect("a generation has a record");
            let lower = Record {
                generation: order.generation,
                posture: order.posture,
                opened: None,
                order: Some(order.clone()),
                ..record
            };
            self.asked.clear();
            self.machine = machine(self.me().clone(), StoredRecord::Known(Box::new(lower)));
            self.check_change(before, word(self.machine.stored()), broker);
            return self.handle(Event::Start { enforced: self.kernel, recorded: true }, broker);
        }
        let event = envelope::Event {
            id: format!("order-{}", order.generation),
            source: "/portcullis".into(),
            subject: None,
            time: None,
            traceparent: None,
            correlation: None,
            causation: None,
            data: order.clone(),
        };
        let (subject, acknowledged) = (self.me().clone(), self.outbox.is_empty());
        self.handle(Event::Order { subject: &subject, event: &event, acknowledged }, broker);
    }

    fn hear_live(&mut self, broker: &Broker, chance: &mut Chance) {
        let come: Vec<usize> = (0..self.live.len()).filter(|index| self.live[*index].0 <= broker.now).collect();
        if !come.is_empty() {
            let (_, index) = self.live.swap_remove(come[chance.below(come.len() as u64) as usize]);
            self.hear(&broker.orders[index].order, broker);
        }
    }

    /// The last order, or now and then what a follower of the stream still has.
    fn get(&mut self, broker: &Broker, chance: &mut Chance, calm: bool) {
        let mut mine = broker.orders.iter().rev().filter(|stored| stored.order.host == *self.me());
        let late = !calm && chance.percent(5);
        if let Some(stored) = if late { mine.nth(1) } else { mine.next() } {
            self.hear(&stored.order, broker);
        }
    }

    fn publish(&mut self, broker: &mut Broker, chance: &mut Chance, calm: bool) {
        let Some((key, state)) = self.outbox.first().cloned() else { return };
        if !calm && chance.percent(30) {
            return;
        }
        broker.store_state(key.clone(), state);
        if calm || chance.percent(80) {
            self.outbox.retain(|(other, _)| *other != key);
            self.unsaved = true;
            if self.outbox.is_empty() {
                self.handle(Event::Acknowledged, broker);
            }
        }
    }

    fn save(&mut self) {
        self.saved.clone_from(&self.outbox);
        self.unsaved = false;
    }

    /// Invariant (h): rules follow their record on a disk that answers, and so does an opening that no order repeats; (f): that one is final.
    fn check_record(&mut self, effect: &Effect, broker: &Broker) {
        let StoredRecord::Known(desired) = self.machine.stored() else { return };
        let me = self.me().clone();
        let generation = desired.generation;
        let holds = |copy: &Option<Record>| {
            copy.as_ref().is_some_and(|copy| (copy.generation, copy.posture) == (generation, desired.posture))
        };
        let is_slow =
            self.asked.iter().any(|(at, effect)| matches!(effect, Effect::WriteState { .. }) && broker.now - at >= PATIENCE)
                || self.received.is_some_and(|(_, at)| broker.now - at >= PATIENCE);
        let recorded = self.written.iter().any(holds) || self.failed >= generation;
        match effect {
            Effect::Activate(_) if !recorded && !is_slow => {
                self.violations.push(format!("(h) {me} activates generation {generation} before it is on the disk"));
            }
            Effect::Activate(_) if generation <= self.opened => {
                self.violations.push(format!("(f) {me} enforces {generation} and has opened itself at {}", self.opened));
            }
            Effect::Release if desired.opened.is_some() && !recorded => {
                self.violations.push(format!("(h) {me} opens itself at {generation} before that is on the disk"));
            }
            _ => {}
        }
    }

    /// Invariants (c) and (f).
    fn check_change(&mut self, before: Word, after: Word, broker: &Broker) {
        let me = self.me().clone();
        let Some((generation, posture, opened)) = after else { return };
        if self.received.is_none_or(|(received, _)| received != generation) && before.is_none_or(|word| word.0 != generation) {
            self.received = Some((generation, broker.now));
        }
        let Some((was, _, was_opened)) = before else { return };
        if generation < was {
            self.violations.push(format!("(f) {me} went from generation {was} to {generation}"));
        }
        if let Some((at, _)) = was_opened
            && posture == Posture::Isolated
            && generation <= at
        {
            self.violations.push(format!("(f) {me} enforces {generation} and opened itself at {at}"));
        }
        let order = self.machine.stored().record().and_then(|record| record.order.as_ref());
        if let (Some((_, StateCause::Deadline)), None, Some((received, at)), Some(order)) =
            (opened, was_opened, self.received, order)
            && received == generation
        {
            let least = order.release_at.map_or(i64::MAX, |release_at| (release_at - order.issued_at).num_milliseconds());
            if broker.now - at < least {
                self.violations
                    .push(format!("(c) {me} opened itself {} ms after it heard generation {generation}", broker.now - at));
            }
        }
    }

    fn report(&mut self, report: &Report) {
        let opened = report.opened.as_ref().filter(|opened| opened.cause == report.cause);
        let state = State {
            host: self.me().clone(),
            generation: report.generation,
            posture: self.view,
            level: Level::Full,
            leaks: vec![],
            enforced_at: opened.map_or(self.since, |opened| opened.at),
            clock_ahead_seconds: None,
            evidence: Evidence { readback_ok: true, ..Evidence::default() },
            cause: report.cause,
            tamper: None,
            last_order: report.last_order.clone(),
            by: None,
            error: report.error.clone(),
            boot_id: format!("boot {}", self.boot),
            agent_version: "0.1.0".into(),
            incident: report.incident.clone(),
        };
        let (generation, cause, at) =
            (state.generation.to_string(), format!("{:?}", state.cause), state.enforced_at.to_rfc3339());
        let id = ids::digest([
            state.host.as_str(),
            &generation,
            state.posture.as_str(),
            &cause,
            &at,
            state.error.as_deref().unwrap_or(""),
        ]);
        let key = InputRef { kind: InputKind::State, token: state.host.to_string(), source: "/agent".into(), id };
        let keeps = |state: &State| {
            matches!(state.cause, StateCause::Local | StateCause::Deadline | StateCause::PostureLost | StateCause::Tamper)
        };
        self.outbox.retain(|(other, state)| keeps(state) && *other != key);
        self.outbox.push((key, state));
        self.unsaved = true;
    }
}

fn chance_of(broker: &Broker) -> usize {
    usize::from(broker.step.is_multiple_of(2))
}

/// Whether the machine hears that a record is written before it is.
fn is_answered_first(defect: Defect, record: &Record) -> bool {
    match defect {
        Defect::ActivatesFirst => record.opened.is_none(),
        Defect::OpensFirst => record.opened.is_some(),
        _ => false,
    }
}

/// Generation, posture and opening of a record.
type Word = Option<(u64, Posture, Option<(u64, StateCause)>)>;

fn word(stored: &StoredRecord) -> Word {
    let record = stored.record()?;
    let opened = record.opened.as_ref().map(|opened| (opened.generation, opened.cause));
    Some((record.generation, record.posture, opened))
}

fn machine(me: HostId, stored: StoredRecord) -> Machine {
    Machine::new(Settings {
        me,
        agent_version: "0.1.0".into(),
        grace: GRACE,
        stored,
        brokers: Vec::new(),
        agent_uid: 0,
        proof: Proof::new(1),
    })
}
