//! The one loop: hands events to the machine and executes its commands.

use std::collections::HashMap;
use std::time::Duration;

use portcullis_bus::{AckHandle, Arrival, Delivery, Heard, HeartbeatStore, LEADER_RENEWS, LeaderKey, Stored};
use portcullis_core::control::Pause;
use portcullis_core::deadlines::Monotonic;
use portcullis_core::machine::{Command, Event, Machine, Ticket};
use portcullis_schemas::Stream;
use portcullis_schemas::heartbeat::{self, Heartbeat};
use tokio::sync::{mpsc, watch};

use crate::clock::Clock;
use crate::commit::{Bus, Executor};
use crate::intake::Intake;
use crate::lead::Role;
use crate::policy_file::PolicyFile;
use crate::schedule::TICK_LATE;
use crate::{clock, failpoint, metrics};

/// Inputs in hand are renewed after this long, so that the broker does not deliver them again.
const RENEW: Duration = Duration::from_secs(1);
/// Before another attempt to open the intake.
const REOPEN: Duration = Duration::from_millis(200);
/// A broker that does not answer at the end is not waited for.
const GIVE_UP: Duration = Duration::from_millis(500);
/// How often the fleet is counted for the metrics, and the heartbeat is stored.
const COUNT: Duration = Duration::from_secs(5);
/// How often the policy's file is looked at. A change is taken at the second look that finds it as it was at the first.
const LOOK: Duration = Duration::from_millis(500);

/// Inputs, and messages of the logs, that are taken in one turn of the loop.
const AT_ONCE: usize = 512;

/// Hellos that are taken in one turn, beside inputs: those of a fleet that comes back at once delay no input by more than these.
const HELLOS_AT_ONCE: usize = 64;

/// Where events come from.
pub struct Sources {
    /// Orders, decisions, states and inventories as they are stored.
    pub followed: mpsc::Receiver<Stored>,
    pub reload: mpsc::Receiver<()>,
    /// Nobody holds the leader's key.
    pub lead: mpsc::Receiver<()>,
    pub connected: watch::Receiver<bool>,
    /// The scheduler's tick, once a second.
    pub tick: watch::Receiver<Monotonic>,
    pub stop: watch::Receiver<bool>,
}

/// Where an intake comes from that was opened for a term.
type Opened = (mpsc::Sender<(u64, Intake)>, mpsc::Receiver<(u64, Intake)>);

pub struct Engine {
    machine: Machine,
    clock: Clock,
    executor: Executor,
    /// What the executor found.
    found: mpsc::UnboundedReceiver<Event>,
    in_hand: HashMap<Ticket, AckHandle>,
    policy: PolicyFile,
    heartbeats: HeartbeatStore,
    key: LeaderKey,
    role: watch::Sender<Role>,
    /// Until when automatic isolation is paused, and by whom.
    pause: watch::Sender<Option<Pause>>,
    /// None while this process follows.
    intake: Option<Intake>,
    opened: Opened,
}

impl Engine {
    pub fn new(
        machine: Machine,
        clock: Clock,
        bus: Bus,
        policy: PolicyFile,
        heartbeats: HeartbeatStore,
        (key, role): (LeaderKey, watch::Sender<Role>),
        pause: watch::Sender<Option<Pause>>,
    ) -> Self {
        let (to, found) = mpsc::unbounded_channel();
        let executor = Executor::new(bus, to);
        let (in_hand, opened) = (HashMap::new(), mpsc::channel(1));
        Self { machine, clock, executor, found, in_hand, policy, heartbeats, key, role, pause, intake: None, opened }
    }

    /// Runs until it is told to stop.
    pub async fn run(mut self, mut from: Sources) {
        self.turn(&mut from).await;
        if self.machine.is_leading() {
            let _ = tokio::time::timeout(GIVE_UP, self.key.give_up()).await;
        }
    }

    async fn turn(&mut self, from: &mut Sources) {
        let mut hold = tokio::time::interval(LEADER_RENEWS);
        let mut renew = tokio::time::interval(RENEW);
        let mut count = tokio::time::interval(COUNT);
        let mut look = tokio::time::interval(LOOK);
        // A sender that is gone would be ready at once, and for ever.
        let (mut ticking, mut late) = (true, false);
        loop {
            self.execute();
            self.policy.decides(self.machine.policy_in_use());
            let machine = &self.machine;
            let wake = machine.next_wake().saturating_sub(clock::monotonic());
            let intake = self.intake.as_mut();
            let (mut arrivals, mut stored) = (Arrivals::default(), Vec::new());
            let event = tokio::select! {
                biased;
                _ = from.stop.changed() => return,
                Some(event) = self.found.recv() => Some(event),
                _ = hold.tick() => { self.hold(); None }
                () = inputs(intake, machine, &mut arrivals) => self.arrived(arrivals),
                _ = from.followed.recv_many(&mut stored, AT_ONCE), if machine.has_room(Stream::States) => self.logged(stored),
                Some(()) = from.reload.recv() => { self.reload(); None }
                Ok(()) = from.connected.changed() => Some(Event::Connection { up: *from.connected.borrow() }),
                Some(()) = from.lead.recv() => Some(Event::Lead),
                Some((term, intake)) = self.opened.1.recv() => { self.open(term, intake); None }
                _ = renew.tick() => { self.renew().await; None }
                _ = count.tick() => { self.count(*from.connected.borrow()); None }
                _ = look.tick() => { self.look(); None }
                ticked = from.tick.changed(), if ticking => { ticking = ticked.is_ok(); Some(Event::Tick) }
                () = tokio::task::yield_now(), if machine.can_decide_ahead() => Some(Event::Idle),
                () = tokio::time::sleep(wake) => Some(Event::Tick),
            };
            if let Some(event) = event {
                if is_begun(&event) {
                    failpoint::reach("orchestrator.received");
                }
                self.machine.handle(event, self.clock.now());
            }
            self.show_pause();
            let age = clock::monotonic().saturating_sub(*from.tick.borrow());
            metrics::scheduler(self.machine.pending_deadlines(), age);
            if age > TICK_LATE && !late {
                tracing::error!(age_s = age.as_secs(), "scheduler tick late: deadlines are kept without it");
            }
            late = age > TICK_LATE;
        }
    }

    fn show_pause(&self) {
        let pause = self.machine.control().paused(self.clock.now().broker);
        self.pause.send_if_modified(|shown| {
            let changes = shown.as_ref() != pause;
            if changes {
                *shown = pause.cloned();
            }
            changes
        });
    }

    fn execute(&mut self) {
        while let Some(command) = self.machine.next_command() {
            match command {
                Command::Begin => self.begin(),
                Command::StepDown => self.step_down(),
                command => self.executor.execute(command, &mut self.in_hand),
            }
        }
    }

    /// Opens the intake beside the loop: the broker may be slow.
    fn begin(&mut self) {
        self.hold();
        let (term, _) = self.machine.term();
        let hosts = self.machine.fleet().counts().hosts;
        let (bus, to, mut role) = (self.executor.bus().clone(), self.opened.0.clone(), self.role.subscribe());
        role.borrow_and_update();
        tokio::spawn(async move {
            loop {
                match Intake::open(&bus.broker, &bus.prefix, hosts, bus.live.clone()).await {
                    Ok(intake) => return drop(to.send((term, intake)).await),
                    Err(error) => tracing::warn!(term, error = format!("{error:#}"), "intake not opened, will retry"),
                }
                tokio::select! { _ = role.changed() => return, () = tokio::time::sleep(REOPEN) => {} }
            }
        });
    }

    /// An intake of an earlier term is of no more use.
    fn open(&mut self, term: u64, intake: Intake) {
        if self.machine.is_leading() && self.machine.term().0 == term {
            self.intake = Some(intake);
            self.role.send_replace(Role::Leading);
            metrics::leading(true);
            let counts = self.machine.fleet().counts();
            tracing::info!(term, hosts = counts.hosts, isolated = counts.isolated, "orchestrator ready");
        }
    }

    fn step_down(&mut self) {
        self.intake = None;
        self.in_hand.clear();
        self.role.send_replace(Role::Standby);
        metrics::leading(false);
    }

    fn hold(&self) {
        if self.machine.is_leading() {
            self.key.renew();
        }
    }

    /// One that is delivered again while it is in hand only has another subject for its acknowledgement.
    fn arrived(&mut self, arrivals: Arrivals) -> Option<Event> {
        let mut delivered = Vec::new();
        for hello in arrivals.hellos {
            let now = self.clock.now();
            self.machine.handle(Event::Hello(hello.into_message(now.broker)), now);
        }
        for arrival in arrivals.releases.into_iter().chain(arrivals.requests).chain(arrivals.detections) {
            match arrival {
                Arrival::Message(delivery) => {
                    let Delivery { delivered: one, ack } = *delivery;
                    if self.in_hand.insert(ack.ticket, ack).is_none() {
                        delivered.push(one);
                    }
                }
                Arrival::Lost { stream, first, last } => {
                    self.machine.handle(Event::Lost { stream, first, last }, self.clock.now());
                }
            }
        }
        (!delivered.is_empty()).then_some(Event::Delivered(delivered))
    }

    fn logged(&mut self, stored: Vec<Stored>) -> Option<Event> {
        for Stored { stream, message } in stored {
            self.machine.handle(Event::Logged(stream, message), self.clock.now());
        }
        None
    }

    async fn renew(&self) {
        for ack in self.in_hand.values().filter(|ack| ack.since.elapsed() >= RENEW) {
            ack.progress().await;
        }
    }

    fn reload(&mut self) {
        self.policy.reload();
        self.beat();
        self.take_file();
    }

    fn look(&mut self) {
        if self.policy.look() {
            self.beat();
            self.take_file();
        }
    }

    /// A policy decides once its text is kept and its record stored.
    fn take_file(&mut self) {
        if let Some((policy, text)) = self.policy.policy.clone() {
            self.executor.keep_policy(policy, text);
        }
    }

    /// While the broker is away the next one says it.
    fn beat(&self) {
        if !self.machine.is_leading() {
            return;
        }
        let late = self.machine.fleet().late(self.clock.now().broker, heartbeat::MOST_LATE);
        self.heartbeats.beat(&Heartbeat { policy: self.policy.state().borrow().clone(), late });
    }

    fn count(&self, connected: bool) {
        metrics::fleet(self.machine.fleet(), self.clock.now().broker);
        metrics::waiting(self.machine.waiting());
        metrics::control(self.machine.control(), self.clock.now().broker);
        if connected {
            self.beat();
        }
    }
}

/// What came in one turn of the loop.
#[derive(Default)]
struct Arrivals {
    releases: Vec<Arrival>,
    requests: Vec<Arrival>,
    detections: Vec<Arrival>,
    hellos: Vec<Heard>,
}

/// Waits for the next inputs, the most urgent stream first, and takes some hellos with them. None come where this process follows.
async fn inputs(intake: Option<&mut Intake>, machine: &Machine, came: &mut Arrivals) {
    let Some(Intake { releases, requests, detections, hellos }) = intake else { return std::future::pending().await };
    let got = tokio::select! {
        biased;
        got = releases.recv_many(&mut came.releases, AT_ONCE), if machine.has_room(Stream::Releases) => got,
        got = requests.recv_many(&mut came.requests, AT_ONCE), if machine.has_room(Stream::Requests) => got,
        got = detections.recv_many(&mut came.detections, AT_ONCE), if machine.has_room(Stream::Detections) => got,
        got = hellos.recv_many(&mut came.hellos, HELLOS_AT_ONCE) => got,
    };
    // A flood of detections does not keep hosts from being heard.
    while came.hellos.len() < HELLOS_AT_ONCE
        && let Ok(hello) = hellos.try_recv()
    {
        came.hellos.push(hello);
    }
    // A reader that has ended would be ready at once, and for ever.
    if got == 0 {
        std::future::pending().await
    }
}

/// Whether work on an input begins: at once, or when its attempt is counted.
fn is_begun(event: &Event) -> bool {
    match event {
        Event::Delivered(delivered) => delivered.iter().any(|one| !one.is_suspect()),
        Event::Marked(..) => true,
        _ => false,
    }
}
