//! The one loop: hands events to the machine and executes its commands.

use std::collections::HashMap;
use std::time::Duration;

use portcullis_bus::{Arrival, Delivery, Heart, Stored};
use portcullis_core::deadlines::Monotonic;
use portcullis_core::machine::{Event, Machine, Ticket};
use portcullis_schemas::Stream;
use portcullis_schemas::heartbeat::{self, Heartbeat};
use tokio::sync::{mpsc, watch};

use crate::clock::Clock;
use crate::commit::{Hands, Tools};
use crate::intake::Intake;
use crate::policy_file::PolicyFile;
use crate::schedule::TICK_LATE;
use crate::{clock, failpoint, metrics};

/// Inputs in hand are renewed after this long, so that the broker does not deliver them again.
const RENEW: Duration = Duration::from_secs(1);
/// How often the fleet is counted for the metrics, and the heartbeat is stored.
const COUNT: Duration = Duration::from_secs(5);

/// Where events come from.
pub struct Sources {
    pub intake: Intake,
    /// Orders, states and inventories as they are stored.
    pub followed: mpsc::Receiver<Stored>,
    pub reload: mpsc::Receiver<()>,
    pub connected: watch::Receiver<bool>,
    /// The scheduler's tick, once a second.
    pub tick: watch::Receiver<Monotonic>,
    pub stop: watch::Receiver<bool>,
}

pub struct Engine {
    machine: Machine,
    clock: Clock,
    hands: Hands,
    /// What the hands found.
    found: mpsc::UnboundedReceiver<Event>,
    in_hand: HashMap<Ticket, Delivery>,
    policy: PolicyFile,
    heart: Heart,
}

impl Engine {
    pub fn new(machine: Machine, clock: Clock, tools: Tools, policy: PolicyFile, heart: Heart) -> Self {
        let (to, found) = mpsc::unbounded_channel();
        Self { machine, clock, hands: Hands::new(tools, to), found, in_hand: HashMap::new(), policy, heart }
    }

    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// Runs until it is told to stop.
    pub async fn run(mut self, mut from: Sources) {
        let mut renew = tokio::time::interval(RENEW);
        let mut count = tokio::time::interval(COUNT);
        // A sender that is gone would be ready at once, and for ever.
        let (mut ticking, mut late) = (true, false);
        loop {
            self.execute();
            let machine = &self.machine;
            let wake = machine.next_wake().saturating_sub(clock::monotonic());
            let event = tokio::select! {
                biased;
                _ = from.stop.changed() => return,
                Some(event) = self.found.recv() => Some(event),
                Some(arrival) = from.intake.releases.recv(), if machine.has_room(Stream::Releases) => self.arrived(arrival),
                Some(arrival) = from.intake.requests.recv(), if machine.has_room(Stream::Requests) => self.arrived(arrival),
                Some(Stored { stream, message }) = from.followed.recv(), if machine.has_room(Stream::States) => {
                    Some(Event::Logged(stream, message))
                }
                Some(()) = from.reload.recv() => self.reload(),
                Ok(()) = from.connected.changed() => Some(Event::Connection { up: *from.connected.borrow() }),
                Some(message) = from.intake.hellos.recv(), if machine.has_room_for_hellos() => Some(Event::Hello(message.into_message(self.clock.now().broker))),
                _ = renew.tick() => { self.renew().await; None }
                _ = count.tick() => { self.count(*from.connected.borrow()); None }
                Some(arrival) = from.intake.detections.recv(), if machine.has_room(Stream::Detections) => self.arrived(arrival),
                ticked = from.tick.changed(), if ticking => { ticking = ticked.is_ok(); Some(Event::Tick) }
                () = tokio::time::sleep(wake) => Some(Event::Tick),
            };
            if let Some(event) = event {
                if is_begun(&event) {
                    failpoint::reach("orchestrator.received");
                }
                self.machine.handle(event, self.clock.now());
            }
            let age = clock::monotonic().saturating_sub(*from.tick.borrow());
            metrics::scheduler(self.machine.pending_deadlines(), age);
            if age > TICK_LATE && !late {
                tracing::error!(age_s = age.as_secs(), "scheduler tick late: deadlines are kept without it");
            }
            late = age > TICK_LATE;
        }
    }

    fn execute(&mut self) {
        while let Some(command) = self.machine.next_command() {
            self.hands.execute(command, &mut self.in_hand);
        }
    }

    /// One that is delivered again while it is in hand only has another subject for its acknowledgement.
    fn arrived(&mut self, arrival: Arrival) -> Option<Event> {
        match arrival {
            Arrival::Message(delivery) => {
                let event = Event::Delivered(delivery.delivered.clone());
                let known = self.in_hand.insert(delivery.ticket(), *delivery).is_some();
                (!known).then_some(event)
            }
            Arrival::Lost { stream, first, last } => Some(Event::Lost { stream, first, last }),
        }
    }

    async fn renew(&self) {
        for delivery in self.in_hand.values().filter(|delivery| delivery.since.elapsed() >= RENEW) {
            delivery.progress().await;
        }
    }

    fn reload(&mut self) -> Option<Event> {
        self.policy.reload();
        self.beat();
        self.policy.policy.clone().map(Event::Policy)
    }

    /// While the broker is away the next one says it.
    fn beat(&self) {
        let late = self.machine.fleet().late(self.clock.now().broker, heartbeat::MOST_LATE);
        self.heart.beat(&Heartbeat { policy: self.policy.state().borrow().clone(), late });
    }

    fn count(&self, connected: bool) {
        metrics::fleet(self.machine.fleet(), self.clock.now().broker);
        if connected {
            self.beat();
        }
    }
}

/// Whether work on an input begins: at once, or when its attempt is counted.
fn is_begun(event: &Event) -> bool {
    match event {
        Event::Delivered(delivered) => delivered.deliveries <= 1,
        Event::Marked(_) => true,
        _ => false,
    }
}
