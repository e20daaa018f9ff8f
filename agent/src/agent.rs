//! The one loop: inputs come in, the core decides, and its effects are done in their order.

mod answers;
mod attached;
mod effects;
mod guard;
mod probe;
mod relocate;
mod room;
mod trial;
mod ways;
mod writing;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use portcullis_agent_core::converge::{Cause, Effect, Host, Report};
use portcullis_agent_core::deadline::Anchor;
use portcullis_agent_core::gate::Proof;
use portcullis_agent_core::record::{Broker, Record, Standing};
use portcullis_agent_core::tamper::Telling;
use portcullis_schemas::envelope;
use portcullis_schemas::events::{Level, Order, Posture, StateCause};
use portcullis_schemas::exclusion::measure::Opens;
use portcullis_schemas::{Prefix, ids};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, sleep_until};

use crate::clock::Clock;
use crate::enforce::Enforcer;
use crate::guardian::Guardian;
use crate::hello::{Identity, Snapshot};
use crate::input::{Input, Received};
use crate::posture_file::PostureFile;
use crate::probes::Probes;
use crate::publish::Outbox;
use crate::steps::{self, step};
use crate::waiting::Waiting;

/// The second copy and the outbox are written when the state event is on its way.
const SETTLE: Duration = Duration::from_millis(25);

pub struct Agent {
    pub identity: Identity,
    pub prefix: Prefix,
    pub resolv_conf: Vec<PathBuf>,
    pub clock: Clock,
    pub host: Host,
    pub file: PostureFile,
    pub enforcer: Enforcer,
    pub outbox: Outbox,
    pub brokers: Vec<Broker>,
    /// For rules of a record that has none.
    pub proof: Proof,
    /// What the posture file said that people should know; told with the first state event.
    pub faults: Vec<String>,
    pub snapshot: watch::Sender<Snapshot>,
    /// For answers that come later.
    pub inputs: mpsc::Sender<Input>,
    /// A host is isolated also where its brokers are reached through tunnels only.
    pub allow_tunnel: bool,
    /// The same where they are reached by relays on this host.
    pub allow_relay: bool,
    pub probes: Probes,
    pub upkeep: Upkeep,
}

/// What is to be done later.
#[derive(Debug)]
pub struct Upkeep {
    settle: Option<Instant>,
    /// The second copy is older than the first.
    second: bool,
    retry: Option<Retry>,
    writing: writing::Writing,
    /// Why the record is not on the disk.
    unwritten: Option<String>,
    /// The last message that could not be read, so that it is told once.
    unread: Option<String>,
    left_out: Vec<String>,
    /// What the exclusions in force open.
    opens: Option<Opens>,
    /// Why they are too much.
    excess: Vec<String>,
    connected: bool,
    /// The wall clock was off when the broker's time was last learned.
    clock_is_off: bool,
    /// What is in force is compared with what should be, at this time whatever is heard.
    look: Option<Instant>,
    looked: Instant,
    found: guard::Found,
    attached: attached::Attached,
    tampering: Telling,
    relocation: relocate::Relocation,
    probing: probe::Probing,
    ways: ways::Ways,
    trial: trial::Trial,
    room: room::Room,
    /// Until then the guardian waits.
    rest: Instant,
}

impl Default for Upkeep {
    fn default() -> Self {
        Self {
            settle: None,
            second: false,
            retry: None,
            writing: writing::Writing::default(),
            unwritten: None,
            unread: None,
            left_out: Vec::new(),
            opens: None,
            excess: Vec::new(),
            connected: false,
            clock_is_off: false,
            look: None,
            looked: Instant::now(),
            found: guard::Found::default(),
            attached: attached::Attached::default(),
            tampering: Telling::default(),
            relocation: relocate::Relocation::default(),
            probing: probe::Probing::default(),
            ways: ways::Ways::default(),
            trial: trial::Trial::default(),
            room: room::Room::default(),
            rest: Instant::now(),
        }
    }
}

#[derive(Debug)]
struct Retry {
    attempt: u64,
    at: Instant,
    report: Option<Report>,
    error: Option<String>,
}

impl Agent {
    /// Asks for the next broker.
    pub(crate) fn next_broker(&self) -> Arc<Notify> {
        self.upkeep.trial.next_broker.clone()
    }

    /// Enforces what stands, before anything else.
    pub fn start(&mut self) {
        // A record is on the disk before its rules are in force, and an opening is in one copy before the other one forgets the isolation: rules of
        // which neither copy knows mean that theirs was lost, or could not be written.
        if self.enforcer.posture == Posture::Isolated
            && self.host.standing.posture() == Posture::Open
            && !self.file.says_isolated()
        {
            self.host.standing = Standing::Lost;
            self.faults.push("rules of an isolation stand in the kernel and the posture file knows of none".to_owned());
        }
        for fault in &self.faults {
            tracing::error!("{fault}");
        }
        self.find_ways(None);
        self.look_back();
        self.handle(Cause::Start);
        self.make_room();
        self.faults.clear();
        self.handle(Cause::Tick);
        self.tell();
    }

    /// Runs until a signal.
    pub async fn run(mut self, mut inputs: mpsc::Receiver<Input>, orders: Waiting, mut guardian: Option<Guardian>) {
        loop {
            let lookup = self.lookup_ends();
            let due = self.due().into_iter().chain(lookup).min();
            let (rest, own) = (self.upkeep.rest, self.enforcer.port());
            let disturbance = async {
                match &mut guardian {
                    Some(guardian) => guardian.disturbed(rest, own).await,
                    None => std::future::pending().await,
                }
            };
            let input = tokio::select! {
                input = inputs.recv() => match input {
                    Some(input) => Some(input),
                    None => return,
                },
                received = orders.next(), if lookup.is_none() => {
                    self.order(&received);
                    None
                }
                disturbance = disturbance => {
                    self.disturbed(disturbance);
                    None
                }
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => None,
            };
            if let Some(Input::Stop(signal)) = input {
                tracing::info!(signal, posture = self.enforcer.posture.as_str(), "stopping; the posture stays as it is");
                self.settle();
                return;
            }
            if let Some(input) = input {
                self.hear(input);
            }
            self.late();
            self.handle(Cause::Tick);
            self.tell();
        }
    }

    fn due(&self) -> Option<Instant> {
        let now = self.clock.now();
        let tick = self.host.wake(&now).map(|rest| Instant::now() + rest);
        let tampering = self.upkeep.tampering.wait_ms(now.boot_ms).map(|wait| Instant::now() + Duration::from_millis(wait));
        let look = self.upkeep.look.filter(|_| self.enforcer.posture == Posture::Isolated);
        let attached = self.upkeep.attached.due().filter(|_| self.enforcer.posture == Posture::Isolated);
        let retry = self.upkeep.retry.as_ref().map(|retry| retry.at);
        [
            tick,
            self.upkeep.settle,
            retry,
            look,
            attached,
            tampering,
            self.relocation_due(),
            self.room_due(),
            self.upkeep.probing.due(),
            self.upkeep.trial.due(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn hear(&mut self, input: Input) {
        match input {
            Input::Connected => {
                tracing::info!("connected to the broker");
                self.upkeep.connected = true;
                self.look_up_again(false);
            }
            Input::Reached(here) => self.reached(here),
            Input::LogEnds(generation) => drop(self.handle(Cause::LogEnds { generation })),
            Input::Disconnected => {
                tracing::warn!("broker unreachable: reconnecting, the posture is kept");
                self.upkeep.connected = false;
                self.look_up_again(true);
            }
            Input::Brokers(brokers) => self.moved(brokers),
            Input::Names(found) => self.renamed(found),
            Input::Probed { changes, found } => self.probed(changes, found),
            Input::Room(crowded) => self.roomed(crowded),
            Input::Published(id) => {
                step("agent.published");
                self.outbox.acknowledged(&id);
                self.stored(&id);
                self.told();
                self.upkeep.settle.get_or_insert_with(|| Instant::now() + SETTLE);
            }
            Input::Door { request, actor, answer } => {
                let _ = answer.send(self.answer(request, actor));
            }
            Input::Stop(_) => {}
        }
    }

    /// An opening by this host that the broker has stored need not be told at the next start.
    fn told(&mut self) {
        let (Standing::Known(record), true) = (&mut self.host.standing, self.outbox.is_empty()) else { return };
        if let Some(opened) = record.opened.as_mut().filter(|opened| !opened.told) {
            opened.told = true;
            self.upkeep.second = true;
        }
    }

    fn order(&mut self, received: &Received) {
        if received.body.is_empty() {
            return;
        }
        if let Some(anchor) = received.anchor {
            self.learn_time(anchor);
        }
        let subject = ["live", "order"].iter().find_map(|kind| self.prefix.host(kind, &received.subject));
        let Some(subject) = subject else {
            tracing::warn!(subject = received.subject, "an order came on a subject of no host; it is not taken");
            return;
        };
        let headers = received.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        match envelope::decode::<Order>(headers, &received.body) {
            Ok(event) => {
                if event.data.generation > self.host.standing.generation(&self.host.me) {
                    steps::new_order();
                    step("agent.received");
                }
                self.find_ways(Some(&event.data));
                let acknowledged = self.outbox.is_empty();
                self.handle(Cause::Order { subject: &subject, event: &event, acknowledged });
            }
            Err(error) => {
                let digest = ids::sha256(&received.body);
                if self.upkeep.unread.as_ref() == Some(&digest) {
                    return;
                }
                self.upkeep.unread = Some(digest);
                let error = format!("an order could not be read and is not taken: {error}");
                tracing::error!("{error}");
                let record = self.host.standing.record();
                let report = Report {
                    generation: self.host.standing.generation(&self.host.me),
                    cause: StateCause::Order,
                    opened: None,
                    tamper: None,
                    last_order: None,
                    error: Some(error),
                    trace: record.map(|record| record.trace.clone()).unwrap_or_default(),
                    incident: None,
                };
                self.report(&report);
            }
        }
    }

    fn learn_time(&mut self, anchor: Anchor) {
        self.clock.learn(anchor);
        let ahead = self.clock.now().ahead();
        if ahead.is_some() != self.upkeep.clock_is_off {
            match ahead {
                Some(ahead) => tracing::warn!(
                    ahead_seconds = ahead.num_seconds(),
                    "the wall clock of this host differs from the broker's; check its time synchronisation"
                ),
                None => tracing::info!("the wall clock of this host agrees with the broker's"),
            }
        }
        self.upkeep.clock_is_off = ahead.is_some();
    }

    /// Asks the core, and does what it says. The last refusal, for whoever asked.
    fn handle(&mut self, cause: Cause<'_>) -> Option<String> {
        let effects = self.host.handle(cause, &self.clock.now());
        let mut refused = None;
        for effect in effects {
            match effect {
                Effect::Persist(record) => self.persist(*record),
                Effect::Enforce => self.enforce(),
                Effect::Report(report) => self.report(&report),
                Effect::Resend => self.outbox.resend(),
                Effect::Refuse(refusal) => {
                    tracing::warn!("{refusal}");
                    refused = Some(refusal.to_string());
                }
            }
        }
        refused
    }

    fn moved(&mut self, brokers: Vec<Broker>) {
        if brokers == self.brokers {
            return;
        }
        self.brokers = brokers;
        self.find_ways(None);
        if let Err(error) = crate::run::remember(&self.file, &self.brokers) {
            tracing::warn!(%error, "cannot keep the brokers' addresses on the disk");
        }
        if self.host.standing.posture() == Posture::Isolated {
            if let Standing::Known(record) = &self.host.standing {
                self.persist(Record { serial: record.serial + 1, ..(**record).clone() });
            }
            self.enforce();
        }
    }

    /// What this host would hold, or holds: nothing where an order to isolate it is not taken.
    fn level(&self) -> Level {
        match &self.host.cut_off {
            Some(_) if self.enforcer.posture == Posture::Open => Level::None,
            _ => self.enforcer.level,
        }
    }

    fn tell(&self) {
        let now = Snapshot {
            generation: self.host.standing.generation(&self.host.me),
            posture: self.enforcer.posture,
            level: self.level(),
        };
        self.snapshot.send_if_modified(|shown| std::mem::replace(shown, now.clone()) != now);
    }
}
