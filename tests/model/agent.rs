//! An agent of the model: the core, a disk with two copies, a kernel, and an outbox; it can die between any two effects.

use std::collections::VecDeque;
use std::time::Duration;

use portcullis_agent_core::converge::{Cause, Effect, Host, Report};
use portcullis_agent_core::deadline::Now;
use portcullis_agent_core::record::{self, Frozen, Record, Standing};
use portcullis_schemas::envelope::Event;
use portcullis_schemas::events::{Evidence, Hello, InputKind, InputRef, Level, LocalActor, Order, Posture, State, StateCause};
use portcullis_schemas::{HostId, Timestamp, ids};

use crate::Defect;
use crate::broker::{Broker, time};
use crate::chance::Chance;

/// How long an agent waits for an order after a deadline.
pub const GRACE: Duration = Duration::from_secs(300);

pub struct Agent {
    pub host: Host,
    pub up: bool,
    pub kernel: Posture,
    since: Timestamp,
    disk: [Option<Vec<u8>>; 2],
    /// What the copies on the disk hold: encoded when they are needed only.
    written: [Option<Record>; 2],
    unsettled: bool,
    outbox: Vec<(InputRef, State)>,
    saved: Vec<(InputRef, State)>,
    boot: u64,
    booted: i64,
    /// What its wall clock is off by.
    pub offset: i64,
    effects: VecDeque<Effect>,
    /// Orders on the live subject, with the time at which they arrive.
    pub live: Vec<(i64, usize)>,
    /// Its first receipt of the standing generation; none where its clocks cannot tell.
    received: Option<(u64, i64)>,
}

impl Agent {
    pub fn new(me: HostId) -> Self {
        let host = Host {
            me,
            agent_version: "0.1.0".into(),
            grace: GRACE,
            standing: Standing::Never,
            listening_since_ms: 0,
            cut_off: None,
            lost: None,
            told: None,
        };
        Self {
            host,
            up: true,
            kernel: Posture::Open,
            since: time(0),
            disk: [None, None],
            written: [None, None],
            unsettled: false,
            outbox: Vec::new(),
            saved: Vec::new(),
            boot: 0,
            booted: 0,
            offset: 0,
            effects: VecDeque::new(),
            live: Vec::new(),
            received: None,
        }
    }

    pub fn me(&self) -> &HostId {
        &self.host.me
    }

    pub fn idle(&self, now: i64) -> bool {
        self.effects.is_empty() && !self.unsettled && self.outbox.is_empty() && !self.live.iter().any(|(at, _)| *at <= now)
    }

    /// Does one thing. `calm`: nothing is lost any more.
    pub fn step(&mut self, broker: &mut Broker, chance: &mut Chance, calm: bool) {
        if let Some(effect) = self.effects.pop_front() {
            return self.perform(effect, broker);
        }
        match chance.below(6) {
            0 => self.hear_live(broker, chance),
            1 => self.get(broker, chance, calm),
            2 => self.handle(Cause::Tick, broker),
            3 => self.settle(),
            _ => self.publish(broker, chance, calm),
        }
    }

    /// Looks for its last order and at its clock, and does what follows.
    pub fn poll(&mut self, broker: &mut Broker, chance: &mut Chance) {
        self.get(broker, chance, true);
        self.perform_all(broker);
        self.handle(Cause::Tick, broker);
        self.perform_all(broker);
    }

    fn perform_all(&mut self, broker: &mut Broker) {
        while let Some(effect) = self.effects.pop_front() {
            self.perform(effect, broker);
        }
    }

    pub fn local_release(&mut self, broker: &Broker) {
        if self.up && self.effects.is_empty() {
            let actor = LocalActor { uid: 0, login_uid: None, tty: None, parent: None, reason: None };
            broker.say(|| format!("{} is opened by root", self.me()));
            self.handle(Cause::LocalRelease(actor), broker);
        }
    }

    pub fn hello(&self, broker: &Broker) -> (InputRef, Hello) {
        let id = format!("hello-{}-{}", self.me(), broker.now);
        let key = InputRef { kind: InputKind::Hello, token: self.me().to_string(), source: "/agent".into(), id };
        let hello = Hello {
            host: self.me().clone(),
            hostname: self.me().to_string(),
            ips: Vec::new(),
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
            generation: self.host.standing.generation(self.me()),
            posture: self.kernel,
            tells_last_order: true,
        };
        (key, hello)
    }

    /// The process dies; with `reboot` the kernel forgets as well. `harm` is done to the posture file.
    pub fn crash(&mut self, reboot: bool, harm: u64, broker: &Broker) {
        broker.say(|| format!("{} dies, reboot {reboot}, harm {harm}", self.me()));
        self.up = false;
        self.effects.clear();
        self.live.clear();
        self.outbox.clone_from(&self.saved);
        if reboot {
            self.boot += 1;
            self.booted = broker.now;
            self.kernel = Posture::Open;
            self.received = None;
        }
        self.disk =
            [0, 1].map(|copy| self.written[copy].as_ref().map(|record| record::encode(record).expect("a record is written")));
        let bad = |copy: &mut Option<Vec<u8>>| copy.iter_mut().for_each(|bytes| bytes.truncate(bytes.len() / 2));
        match harm {
            0 => self.disk.iter_mut().for_each(bad),
            1 => self.disk = [None, None],
            // One of two: the other one is as new, since two faults at once are more than is promised.
            2 if !self.unsettled => bad(&mut self.disk[chance_of(broker)]),
            _ => {}
        }
        self.unsettled = false;
    }

    pub fn restart(&mut self, broker: &mut Broker) {
        let (standing, _) = record::read(&Ok(self.disk[0].clone()), &Ok(self.disk[1].clone()), self.me());
        // Rules without a record: it was lost.
        let standing = if standing == Standing::Never && self.kernel == Posture::Isolated { Standing::Lost } else { standing };
        broker.say(|| format!("{} starts with generation {}", self.me(), standing.generation(self.me())));
        self.written = [0, 1].map(|copy| self.disk[copy].as_ref().and_then(|bytes| record::decode(bytes).ok()));
        if standing.record().is_none() {
            self.received = None;
        }
        self.host.standing = standing;
        self.host.told = None;
        self.since = time(broker.now + self.offset);
        self.up = true;
        self.handle(Cause::Start, broker);
    }

    fn now(&self, broker: &Broker) -> Now {
        Now {
            wall: time(broker.now + self.offset),
            broker: Some(broker.wall()),
            boot_ms: (broker.now - self.booted) as u64,
            boot_id: format!("boot {}", self.boot),
        }
    }

    fn handle(&mut self, cause: Cause<'_>, broker: &Broker) {
        let effects = self.host.handle(cause, &self.now(broker));
        for effect in &effects {
            if let Effect::Persist(record) = effect
                && record.generation != self.host.standing.generation(self.me())
            {
                self.received = Some((record.generation, broker.now));
            }
        }
        self.effects.extend(effects);
    }

    fn hear(&mut self, order: &Order, broker: &Broker) {
        if broker.defect == Defect::ObeysLower && order.generation < self.host.standing.generation(self.me()) {
            let record = self.host.standing.record().cloned().expect("a generation has a record");
            let lower = Record {
                generation: order.generation,
                posture: order.posture,
                opened: None,
                order: Some(order.clone()),
                ..record
            };
            self.effects.extend([Effect::Persist(Box::new(lower)), Effect::Enforce]);
            return;
        }
        let event = Event {
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
        self.handle(Cause::Order { subject: &subject, event: &event, acknowledged }, broker);
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
            self.unsettled = true;
        }
    }

    /// The second copy and the outbox, when the state event is on its way.
    fn settle(&mut self) {
        if let (Standing::Known(record), true) = (&mut self.host.standing, self.unsettled) {
            record.serial += 1;
            self.written[1] = Some((**record).clone());
        }
        self.saved.clone_from(&self.outbox);
        self.unsettled = false;
    }

    fn perform(&mut self, effect: Effect, broker: &mut Broker) {
        match effect {
            Effect::Persist(mut record) => {
                if record.posture == Posture::Isolated {
                    record.frozen.get_or_insert_with(Frozen::default);
                }
                self.check_record(&record, broker);
                self.written[0] = Some((*record).clone());
                self.host.standing = Standing::Known(record);
                self.unsettled = true;
            }
            Effect::Enforce => {
                let posture = self.host.standing.posture();
                if posture != self.kernel {
                    broker.say(|| format!("{} is {}", self.me(), posture.as_str()));
                    (self.kernel, self.since) = (posture, time(broker.now + self.offset));
                }
            }
            Effect::Report(report) => self.report(&report),
            Effect::Resend | Effect::Refuse(_) => {}
        }
    }

    /// Invariants (c) and (f).
    fn check_record(&self, record: &Record, broker: &mut Broker) {
        let Some(before) = self.host.standing.record() else { return };
        let me = self.me().clone();
        if record.generation < before.generation {
            broker.violated(format!("(f) {me} went from generation {} to {}", before.generation, record.generation));
        }
        if let Some(opened) = &before.opened
            && record.posture == Posture::Isolated
            && record.generation <= opened.generation
        {
            broker.violated(format!("(f) {me} enforces {} and opened itself at {}", record.generation, opened.generation));
        }
        if let (Some(opened), Some((generation, at)), Some(order)) = (&record.opened, self.received, &record.order)
            && opened.cause == StateCause::Deadline
            && before.opened.is_none()
            && generation == record.generation
        {
            let least = order.release_at.map_or(i64::MAX, |release_at| (release_at - order.issued_at).num_milliseconds());
            if broker.now - at < least {
                broker.violated(format!("(c) {me} opened itself {} ms after it heard generation {generation}", broker.now - at));
            }
        }
    }

    fn report(&mut self, report: &Report) {
        let opened = report.opened.as_ref().filter(|opened| opened.cause == report.cause);
        let state = State {
            host: self.me().clone(),
            generation: report.generation,
            posture: self.kernel,
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
        self.unsettled = true;
    }
}

fn chance_of(broker: &Broker) -> usize {
    usize::from(broker.step.is_multiple_of(2))
}
