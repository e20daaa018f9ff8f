//! The one loop: inputs come in, the machine decides, and its effects are begun in their order. It waits for no disk and no kernel.

mod answers;
mod attached;
mod conntrack;
mod effects;
mod guard;
pub mod input;
mod names;
mod probe;
mod reach;
mod relocate;
mod report;
pub mod restore;
pub mod run;
mod trial;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use portcullis_agent_core::deadline::Anchor;
use portcullis_agent_core::machine::{Event, Machine, Report};
use portcullis_agent_core::record::Broker;
use portcullis_agent_core::tamper::TamperReports;
use portcullis_schemas::envelope;
use portcullis_schemas::events::{Level, Order, Posture, StateCause};
use portcullis_schemas::exclusion::measure::Opens;
use portcullis_schemas::{Prefix, ids};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};

use crate::broker::event::{self, Received};
use crate::broker::heartbeat::{Identity, Snapshot};
use crate::broker::outbox::Outbox;
use crate::broker::pending_orders::PendingOrders;
use crate::control::input::{Input, Inputs};
use crate::disk::posture_file::PostureFile;
use crate::disk::writer::{self, Writer};
use crate::failpoint::{self, step};
use crate::firewall::worker::{ActualState, Worker};
use crate::host::clock::Clock;
use crate::local::socket::Answer;
use crate::parallel::Thread;
use crate::watch::Monitor;
use crate::watch::probes::Probes;

/// The outbox is written when the state event is on its way.
const SETTLE: Duration = Duration::from_millis(25);
/// For a kernel and a disk that are at work as this process is asked to stop.
const ENDING: Duration = Duration::from_secs(2);

pub struct Agent {
    pub identity: Identity,
    pub prefix: Prefix,
    pub resolv_conf: Vec<PathBuf>,
    pub clock: Clock,
    pub machine: Machine,
    pub file: PostureFile,
    /// What is in force.
    pub actual: ActualState,
    pub worker: Worker,
    pub writer: Writer,
    /// Asks name servers.
    pub names: Thread<names::Question>,
    /// What became of their jobs.
    pub results: mpsc::UnboundedReceiver<Input>,
    pub outbox: Outbox,
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
    /// The outbox is on its way to the disk.
    saving: bool,
    /// Who asked what the exclusions have let pass.
    counting: VecDeque<oneshot::Sender<Answer>>,
    /// Local releases that are not done yet.
    releasing: Vec<answers::Releasing>,
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
    looking: Option<guard::Looking>,
    found: guard::Found,
    /// The worker is at what was heard last.
    reverting: bool,
    attached: attached::Attached,
    tampering: TamperReports,
    relocation: relocate::Relocation,
    probing: probe::Probing,
    names: names::NameLookup,
    reach: reach::Reachability,
    trial: trial::Trial,
    conntrack: conntrack::Conntrack,
    /// Until then the guardian waits.
    rest: Instant,
}

impl Default for Upkeep {
    fn default() -> Self {
        Self {
            settle: None,
            saving: false,
            counting: VecDeque::new(),
            releasing: Vec::new(),
            unread: None,
            left_out: Vec::new(),
            opens: None,
            excess: Vec::new(),
            connected: false,
            clock_is_off: false,
            look: None,
            looked: Instant::now(),
            looking: None,
            found: guard::Found::default(),
            reverting: false,
            attached: attached::Attached::default(),
            tampering: TamperReports::default(),
            relocation: relocate::Relocation::default(),
            probing: probe::Probing::default(),
            names: names::NameLookup::default(),
            reach: reach::Reachability::default(),
            trial: trial::Trial::default(),
            conntrack: conntrack::Conntrack::default(),
            rest: Instant::now(),
        }
    }
}

impl Agent {
    /// Asks for the next broker.
    pub(crate) fn next_broker(&self) -> Arc<Notify> {
        self.upkeep.trial.next_broker.clone()
    }

    /// Enforces the desired state, before anything else.
    pub async fn start(&mut self) {
        for fault in &self.faults {
            tracing::error!("{fault}");
        }
        self.find_routes(None);
        self.find_groups();
        self.handle(Event::Start { enforced: self.actual.posture, recorded: self.file.says_isolated() });
        while !self.machine.is_attempted() {
            let due = self.upkeep.names.due();
            tokio::select! {
                input = self.results.recv() => match input {
                    Some(input) => self.hear(input),
                    None => break,
                },
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => self.late_names(Instant::now()),
            }
        }
        self.check_conntrack();
        self.faults.clear();
        self.handle(Event::Tick);
        self.tell();
    }

    /// Runs until a signal.
    pub async fn run(mut self, mut inputs: Inputs, orders: PendingOrders, mut monitor: Option<Monitor>) {
        loop {
            let lookup = self.lookup_ends();
            let due = self.due().into_iter().chain(lookup).min();
            let (rest, own) = (self.upkeep.rest, self.actual.port);
            // What is heard while rules are written is judged by what is in force afterwards.
            let hears = !self.upkeep.reverting && !self.machine.is_at_work();
            let changes = async {
                match monitor.as_mut().filter(|_| hears) {
                    Some(monitor) => monitor.changed(rest, own).await,
                    None => std::future::pending().await,
                }
            };
            let input = tokio::select! {
                input = inputs.next() => match input {
                    Some(input) => Some(input),
                    None => return,
                },
                result = self.results.recv() => result,
                received = orders.next(), if lookup.is_none() && !self.upkeep.names.holds_an_order() => {
                    self.order(received);
                    None
                }
                changes = changes => {
                    self.changed(changes);
                    None
                }
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => None,
            };
            if let Some(Input::Stop(signal)) = input {
                tracing::info!(signal, posture = self.actual.posture.as_str(), "stopping; the posture stays as it is");
                return self.end();
            }
            if let Some(input) = input {
                self.hear(input);
            }
            self.late();
            self.handle(Event::Tick);
            self.answer_releases();
            self.tell();
        }
    }

    /// What is on its way is waited for, if it comes soon.
    fn end(&mut self) {
        self.go_on_without_names();
        loop {
            let answered = self.worker.flush(ENDING) && self.writer.flush(ENDING);
            while let Ok(input) = self.results.try_recv() {
                self.hear(input);
            }
            let is_written = self.machine.finish(&self.clock.now());
            self.perform();
            self.settle();
            if is_written && !self.upkeep.saving {
                return;
            }
            if !answered {
                tracing::warn!("disk or kernel does not answer: ending without it, the next start reads the last record");
                return;
            }
        }
    }

    fn due(&self) -> Option<Instant> {
        let now = self.clock.now();
        let tick = self.machine.next_wake(&now).map(|rest| Instant::now() + rest);
        let tampering = self.upkeep.tampering.wait_ms(now.boot_ms).map(|wait| Instant::now() + Duration::from_millis(wait));
        let is_isolated = self.actual.posture == Posture::Isolated;
        let look = self.upkeep.look.filter(|_| is_isolated && self.upkeep.looking.is_none());
        let attached = self.upkeep.attached.due().filter(|_| is_isolated);
        [
            tick,
            self.upkeep.settle,
            look,
            attached,
            tampering,
            self.relocation_due(),
            self.conntrack_due(),
            self.upkeep.probing.due(),
            self.upkeep.names.due(),
            self.upkeep.trial.due(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn hear(&mut self, input: Input) {
        match input {
            Input::Broker(event) => self.broker(event),
            Input::Names(found) => self.renamed(found),
            Input::Located { number, found } => self.located(number, found),
            Input::Probed { changes, found } => self.probed(changes, found),
            Input::Conntrack(crowded) => self.conntrack_checked(crowded),
            Input::Kernel(done) => self.done(*done),
            Input::Disk(writer::Done::Record { copy, serial, written }) => {
                self.handle(Event::Written { copy, serial, written });
            }
            Input::Disk(writer::Done::Outbox(saved)) => self.saved(saved),
            Input::Exchange(exchange) => self.answer(exchange),
            Input::Stop(_) => {}
        }
    }

    fn broker(&mut self, event: event::Event) {
        match event {
            event::Event::Connected => {
                tracing::info!("connected to the broker");
                self.upkeep.connected = true;
                self.look_up_again(false);
            }
            event::Event::Disconnected => {
                tracing::warn!("broker unreachable: reconnecting, the posture is kept");
                self.upkeep.connected = false;
                self.look_up_again(true);
            }
            event::Event::LogEnds(generation) => drop(self.handle(Event::LogEnds { generation })),
            event::Event::Reached(here) => self.reached(here),
            event::Event::Brokers(brokers) => self.moved(brokers),
            event::Event::Published(id) => {
                step("agent.published");
                self.outbox.acknowledged(&id);
                self.stored(&id);
                if self.outbox.is_empty() {
                    self.handle(Event::Acknowledged);
                }
                self.upkeep.settle.get_or_insert_with(|| Instant::now() + SETTLE);
            }
        }
    }

    fn order(&mut self, received: Received) {
        if received.body.is_empty() {
            return;
        }
        if let Some(anchor) = received.anchor {
            self.learn_time(anchor);
        }
        let subject = ["live", "order"].iter().find_map(|kind| self.prefix.host(kind, &received.subject));
        let Some(subject) = subject else {
            tracing::warn!(subject = received.subject, "order refused: its subject names no host");
            return;
        };
        let headers = received.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        match envelope::decode::<Order>(headers, &received.body) {
            Ok(event) => {
                if self.asks_for_names(&event.data) {
                    return self.hold(received);
                }
                if event.data.generation > self.machine.generation() {
                    failpoint::new_order();
                    step("agent.received");
                }
                self.find_routes(Some(&event.data));
                let acknowledged = self.outbox.is_empty();
                self.handle(Event::Order { subject: &subject, event: &event, acknowledged });
            }
            Err(error) => {
                let digest = ids::sha256(&received.body);
                if self.upkeep.unread.as_ref() == Some(&digest) {
                    return;
                }
                self.upkeep.unread = Some(digest);
                let error = format!("order refused, it cannot be read: {error}");
                tracing::error!("{error}");
                let desired = self.machine.report(StateCause::Order);
                let report = Report { opened: None, last_order: None, error: Some(error), incident: None, ..desired };
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

    fn moved(&mut self, brokers: Vec<Broker>) {
        if brokers == self.machine.brokers() {
            return;
        }
        self.writer.send(writer::Job::Brokers(brokers.clone()));
        self.handle(Event::Brokers(brokers));
        self.find_routes(None);
    }

    /// What this host would hold, or holds: nothing where an order to isolate it is not taken.
    fn level(&self) -> Level {
        match self.machine.cut_off() {
            Some(_) if self.actual.posture == Posture::Open => Level::None,
            _ => self.actual.level,
        }
    }

    fn tell(&self) {
        let now = Snapshot { generation: self.machine.enforced_generation(), posture: self.actual.posture, level: self.level() };
        self.snapshot.send_if_modified(|shown| std::mem::replace(shown, now.clone()) != now);
    }
}
