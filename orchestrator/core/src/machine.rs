//! The leader as a machine without IO: events in, commands out, and the time at which it wants to be woken.
//!
//! It holds the whole protocol of an input: decided against the fleet, its order stored, then its decision, then acknowledged. The shell
//! executes commands and hands their answers in; it decides nothing. The same events at the same times give the same commands.
//!
//! One input is at work at a time. What fails in passing is parked and retried, and others go on meanwhile.

mod event;
mod queue;
mod read;
mod work;
mod write;

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use portcullis_schemas::envelope;
use portcullis_schemas::events::{Inventory, Notice, Order};
use portcullis_schemas::{HostId, Prefix, Stream, Timestamp, ids};

use crate::deadlines::{Deadlines, Monotonic};
use crate::notices::Notices;
use crate::recent::Recent;
use crate::{Config, Fleet};
pub use event::{Appended, Command, Delivered, Event, Kept, Log, Message, Now, Report, Ticket};
use portcullis_policy::Policy;
use queue::{Item, Queue};
use work::Work;

/// How often hosts are looked at for silence.
const SILENCE_CHECK: Duration = Duration::from_secs(5);
/// A release that the broker did not take is published again after this long.
const RELEASE_RETRY: Duration = Duration::from_secs(1);

pub struct Machine {
    prefix: Prefix,
    config: Config,
    policy: Option<Arc<Policy>>,
    fleet: Fleet,
    recent: Recent,
    deadlines: Deadlines,
    notices: Notices,
    /// The last known sequence of ORDERS and of DECISIONS.
    orders: u64,
    decisions: u64,
    queue: Queue<Work>,
    work: Option<Work>,
    commands: VecDeque<Command>,
    /// Hosts whose inventory is on its way to the stream.
    storing: BTreeSet<HostId>,
    connected: bool,
    next_silence_check: Monotonic,
}

impl Machine {
    /// Knows nothing yet: the logs are handed in first ([`Event::Logged`]), then [`begin`](Self::begin).
    pub fn new(prefix: Prefix, config: Config) -> Self {
        Self {
            prefix,
            config,
            policy: None,
            fleet: Fleet::default(),
            recent: Recent::default(),
            deadlines: Deadlines::default(),
            notices: Notices::default(),
            orders: 0,
            decisions: 0,
            queue: Queue::default(),
            work: None,
            commands: VecDeque::new(),
            storing: BTreeSet::new(),
            connected: true,
            next_silence_check: Monotonic::ZERO,
        }
    }

    /// The logs have been handed in up to these sequences. Nobody could be heard while they were read.
    pub fn begin(&mut self, orders: u64, decisions: u64, now: Now) {
        self.orders = self.orders.max(orders);
        self.decisions = self.decisions.max(decisions);
        self.fleet.forgive_silence(now.broker);
        self.next_silence_check = now.boot + SILENCE_CHECK;
    }

    pub fn handle(&mut self, event: Event, now: Now) {
        match event {
            Event::Delivered(delivered) => self.queue.push(Item::Delivered(delivered)),
            Event::Lost { stream, first, last } => self.queue.push(Item::Lost { stream, first, last }),
            Event::Logged(Stream::States, message) => self.queue.push(Item::State(message)),
            Event::Logged(Stream::Orders, message) => self.take_order(&message, now),
            Event::Logged(Stream::Decisions, message) => self.take_decision(&message),
            Event::Logged(Stream::Inventory, message) => self.take_inventory(&message),
            Event::Logged(..) => {}
            Event::Hello(message) => self.queue.push(Item::Hello(message)),
            Event::Connection { up } => {
                self.connected = up;
                self.fleet.forgive_silence(now.broker);
            }
            Event::Policy(policy) => self.policy = Some(policy),
            Event::Tick => self.tick(now),
            // Its next hello stores it. One that is stored comes by its stream.
            Event::InventoryRefused(host) => {
                self.storing.remove(&host);
            }
            Event::ReleaseRefused(host, generation) => self.deadlines.again(&host, generation, now.boot + RELEASE_RETRY),
            Event::Appended(log, appended) => self.appended(log, appended, now),
            Event::Read(log, read) => self.read(log, read, now),
            Event::Marked(begun) => self.marked(begun, now),
            Event::Kept(kept) => self.kept(kept, now),
        }
        self.advance(now);
    }

    pub fn next_command(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    /// When [`Event::Tick`] is wanted at the latest. An earlier or a further one does no harm.
    pub fn next_wake(&self) -> Monotonic {
        let times = [self.deadlines.next(), self.queue.next_unpark()];
        times.into_iter().flatten().fold(self.next_silence_check, Monotonic::min)
    }

    /// Whether more of an input stream, or of STATES, may be handed in now.
    pub fn has_room(&self, stream: Stream) -> bool {
        self.queue.has_room(stream)
    }

    pub fn has_room_for_hellos(&self) -> bool {
        self.queue.has_room_for_hellos()
    }

    /// Whether everything that was handed in has been dealt with.
    pub fn is_idle(&self) -> bool {
        self.work.is_none() && self.queue.is_empty() && self.commands.is_empty()
    }

    pub fn fleet(&self) -> &Fleet {
        &self.fleet
    }

    /// Isolations with a deadline to come.
    pub fn pending_deadlines(&self) -> usize {
        self.deadlines.pending()
    }

    /// Begins what waits, for as long as it needs no answer of the shell.
    fn advance(&mut self, now: Now) {
        while self.work.is_none() {
            if let Some(work) = self.queue.unpark(now.boot) {
                self.resume(work, now);
            } else if let Some(item) = self.queue.pop() {
                self.begin_work(item, now);
            } else {
                return;
            }
        }
    }

    fn tick(&mut self, now: Now) {
        for due in self.deadlines.due(now.boot) {
            let (host, generation) = (due.host.clone(), due.generation);
            match write::release_due(&self.prefix, due) {
                Ok((subject, body)) => self.commands.push_back(Command::ReleaseDue { host, generation, subject, body }),
                Err(why) => self.report(Report::Unanswerable { token: host.to_string(), why }),
            }
        }
        if now.boot < self.next_silence_check {
            return;
        }
        self.next_silence_check = now.boot + SILENCE_CHECK;
        // While the broker is away nobody can be heard, and silence means nothing.
        if self.connected {
            for inventory in self.fleet.fallen_silent(now.broker) {
                if !self.storing.contains(&inventory.hello.host) {
                    let notice = self.fleet.unreachable(&inventory);
                    self.report(Report::Unreachable { host: inventory.hello.host.clone(), since: inventory.silent_since });
                    self.store_inventory(inventory, now.broker);
                    self.notify(vec![notice], now.broker, now);
                }
            }
        }
    }

    fn store_inventory(&mut self, inventory: Inventory, at: Timestamp) {
        let host = inventory.hello.host.clone();
        match write::inventory(&self.prefix, inventory, at) {
            Ok((subject, body)) => {
                self.storing.insert(host.clone());
                self.commands.push_back(Command::StoreInventory { host, subject, body });
            }
            Err(why) => self.report(Report::Unanswerable { token: host.to_string(), why }),
        }
    }

    /// Takes a message of ORDERS, wherever it was read. One that is known changes nothing.
    fn take_order(&mut self, message: &Message, now: Now) {
        if message.sequence <= self.orders {
            return;
        }
        self.orders = message.sequence;
        let stored_now = self.work.as_mut().is_some_and(|work| work.recognise(&message.body));
        match envelope::decode::<Order>(message.headers(), &message.body) {
            Ok(event) => self.fold_order(event.data, &message.body, stored_now, now),
            Err(why) => {
                self.fleet.take_unreadable(ids::sha256(&message.body));
                self.report(Report::NotAnOrder(why));
            }
        }
    }

    /// All of its time is left of an order that was stored just now; of one that is read, what is left by the broker's time.
    fn fold_order(&mut self, order: Order, body: &[u8], stored_now: bool, now: Now) {
        self.deadlines.follow(&order, now.boot, (!stored_now).then_some(now.broker));
        self.fleet.take_order(order, ids::sha256(body));
    }

    fn take_decision(&mut self, message: &Message) {
        if message.sequence > self.decisions {
            self.decisions = message.sequence;
            if let Some(work) = &mut self.work {
                work.recognise(&message.body);
            }
            self.recent.take(&message.body);
        }
    }

    fn take_inventory(&mut self, message: &Message) {
        // What cannot be read there was written by somebody else, and names no host.
        if let Ok(event) = envelope::decode::<Inventory>(message.headers(), &message.body) {
            self.storing.remove(&event.data.hello.host);
            self.fleet.take_inventory(event.data, message.at);
        }
    }

    fn notify(&mut self, notices: Vec<Notice>, at: Timestamp, now: Now) {
        for notice in notices {
            let Some(id) = self.notices.admit(&notice, now.boot) else { continue };
            match write::notice(&self.prefix, id, notice, at) {
                Ok((subject, body)) => self.commands.push_back(Command::Notify { subject, body }),
                Err(why) => self.report(Report::Unanswerable { token: "notice".into(), why }),
            }
        }
    }

    fn report(&mut self, report: Report) {
        self.commands.push_back(Command::Report(report));
    }
}

#[cfg(test)]
mod tests;
