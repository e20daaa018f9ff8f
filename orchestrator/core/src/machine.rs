//! The orchestrator as a machine without IO: events in, commands out, and the time at which it wants to be woken.
//!
//! It holds the whole protocol: who leads, and for the leader each batch of inputs: decided against the fleet, its orders stored, then its answers, then
//! acknowledged. The shell executes commands and hands their answers in; it decides nothing. The same events at the same times give the same commands.
//!
//! A follower folds the logs and gives no command. What decides is in the logs before it decides: hellos are stored as inventories first, a policy has its
//! record.

mod again;
mod answer;
mod batch;
mod event;
mod fold;
mod hello;
mod lead;
mod page;
mod policy;
mod queue;
mod read;
mod reject;
mod turns;
mod wait;
mod write;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use portcullis_policy::Policy;
use portcullis_schemas::events::Notice;
use portcullis_schemas::{HostId, Prefix, Stream, Timestamp};

use crate::answered::Answered;
use crate::control::Control;
use crate::deadlines::{Deadlines, Monotonic};
use crate::notices::Notices;
use crate::waiting::Waiting;
use crate::{Basis, Config, Fleet};
pub(crate) use again::Recorded;
use batch::Batch;
pub use event::{Appended, Command, Delivered, Event, Kept, Log, Message, Now, Outgoing, Report, Ticket};
pub(crate) use fold::stream_of;
use lead::Role;
pub use policy::FILE;
use policy::Policies;
pub(crate) use queue::is_more_urgent;
use queue::{Item, Queue};
use reject::Rejection;
use wait::UnderWay;

/// How often hosts are looked at for silence.
const SILENCE_CHECK: Duration = Duration::from_secs(5);
/// A look that is later than this comes from a process that was paused: it heard nobody meanwhile, and may lead no more.
const PAUSED: Duration = Duration::from_secs(10);
/// A release that the broker did not take is published again after this long.
const RELEASE_RETRY: Duration = Duration::from_secs(1);
/// A follower has nothing to wake for.
const NEVER: Monotonic = Duration::from_secs(u32::MAX as u64);

pub struct Machine {
    prefix: Prefix,
    config: Config,
    /// This process.
    who: String,
    role: Role,
    /// The stored logs have been handed in.
    has_begun: bool,
    /// The highest term in the logs, and whose it is.
    term: u64,
    leader: Option<String>,
    /// When it began.
    leader_since: Option<Timestamp>,
    /// The policy that decides.
    policy: Option<Arc<Policy>>,
    policies: Policies,
    fleet: Fleet,
    control: Control,
    /// Pending approvals whose end is on its way to its record, by their ids.
    ending: BTreeSet<String>,
    /// The end of the pause is on its way to its record.
    resuming: Option<Timestamp>,
    /// Breakers whose reset is on its way to its record.
    resetting: BTreeSet<String>,
    answered: Answered,
    waiting: Waiting,
    under_way: UnderWay,
    deadlines: Deadlines,
    notices: Notices,
    /// The last known sequences.
    orders: u64,
    decisions: u64,
    inventory: u64,
    states: u64,
    /// The sequence in ORDERS of the message that the fleet's chain ends with.
    chain_at: u64,
    queue: Queue<Batch>,
    batch: Option<Batch>,
    /// Decided while `batch` is stored, or to be decided next.
    ahead: Option<Batch>,
    /// When the log is read on again for the batch in flight.
    read_again_at: Option<Monotonic>,
    /// Appends and reads that have no answer yet, by their numbers. The answer to another one is too late, and means nothing.
    awaited: BTreeMap<u64, Log>,
    last_number: u64,
    /// Messages of the logs that came while an append to them was in flight.
    held: Vec<(Log, Message)>,
    rejections: BTreeMap<u64, Rejection>,
    rejection: u64,
    /// States and inventories that want an answer of the leader, by their sequences.
    unanswered: BTreeMap<(Stream, u64), Item>,
    /// The last state of each host that wants a notice and no answer.
    unnoticed: BTreeMap<HostId, Item>,
    /// The last state that a leader had taken when it last decided something.
    states_decided: u64,
    commands: VecDeque<Command>,
    /// Hosts whose inventory is on its way to the stream.
    storing: BTreeSet<HostId>,
    /// Words of operators may be in no inventory.
    words_due: bool,
    /// Inventories that wait until those in flight are stored.
    inventories: VecDeque<(HostId, Outgoing)>,
    in_flight: Vec<HostId>,
    connected: bool,
    next_silence_check: Monotonic,
    /// When a pending approval or the pause ends next.
    wake_at: Option<Monotonic>,
}

impl Machine {
    /// A follower that knows nothing yet: the logs are handed in first ([`Event::Logged`]), then [`begin`](Self::begin). `who` names this process: random,
    /// and new at each start.
    pub fn new(prefix: Prefix, config: Config, who: String) -> Self {
        Self {
            prefix,
            config,
            who,
            role: Role::Following,
            has_begun: false,
            term: 0,
            leader: None,
            leader_since: None,
            policy: None,
            policies: Policies::default(),
            fleet: Fleet::default(),
            control: Control::default(),
            ending: BTreeSet::new(),
            resuming: None,
            resetting: BTreeSet::new(),
            answered: Answered::default(),
            waiting: Waiting::default(),
            under_way: UnderWay::default(),
            deadlines: Deadlines::default(),
            notices: Notices::default(),
            orders: 0,
            decisions: 0,
            inventory: 0,
            states: 0,
            chain_at: 0,
            queue: Queue::default(),
            batch: None,
            ahead: None,
            read_again_at: None,
            awaited: BTreeMap::new(),
            last_number: 0,
            held: Vec::new(),
            rejections: BTreeMap::new(),
            rejection: 0,
            unanswered: BTreeMap::new(),
            unnoticed: BTreeMap::new(),
            states_decided: 0,
            commands: VecDeque::new(),
            storing: BTreeSet::new(),
            words_due: false,
            inventories: VecDeque::new(),
            in_flight: Vec::new(),
            connected: true,
            next_silence_check: Monotonic::ZERO,
            wake_at: None,
        }
    }

    /// The logs have been handed in up to these sequences.
    pub fn begin(&mut self, orders: u64, decisions: u64) {
        self.has_begun = true;
        self.orders = self.orders.max(orders);
        self.decisions = self.decisions.max(decisions);
        self.load_active();
    }

    pub fn handle(&mut self, event: Event, now: Now) {
        match event {
            Event::Delivered(delivered) => delivered.into_iter().for_each(|one| self.deliver(one)),
            // What an earlier leader answered was not lost when it was removed.
            Event::Lost { stream, first, last } => {
                for (first, last) in self.answered.missing(stream, first, last) {
                    self.push(Item::Lost { stream, first, last, at: now.broker });
                }
            }
            Event::Logged(stream, message) => self.logged(stream, message, now),
            Event::Hello(message) => self.hello(message, now),
            Event::Connection { up } => {
                self.connected = up;
                self.fleet.forgive_silence(now.broker);
            }
            Event::Policy(policy) => self.policy_file(policy, now),
            Event::PolicyFetched(hash, text) => self.policy_read(hash, text, now),
            Event::Lead => self.try_to_lead(now),
            Event::Tick => self.tick(now),
            Event::Idle => self.decide_ahead(now),
            Event::InventoriesStored(stored) => self.inventories_stored(stored),
            Event::ReleaseRefused(host, generation) => self.deadlines.again(&host, generation, now.boot + RELEASE_RETRY),
            Event::Appended(number, appended) => match self.awaited.remove(&number) {
                Some(log) if self.role.appends_to(log) => self.term_appended(log, appended, now),
                Some(log) => self.batch_appended(log, appended, now),
                None => {}
            },
            Event::Read(number, read) => match self.awaited.remove(&number) {
                Some(log) if self.role.appends_to(log) => self.term_read(log, read, now),
                Some(log) => self.batch_read(log, read, now),
                None => {}
            },
            Event::Marked(ticket, begun) => self.marked(ticket, begun, now),
            Event::Kept(number, kept) => self.kept(number, kept, now),
            Event::Fetched(ticket, text) => self.fetched(ticket, text, now),
        }
        self.take_held(now);
        self.go_on_waiting(now);
        self.end_what_is_over(now);
        self.read_policies_again(now);
        self.advance(now);
        self.store_words(now);
        self.store_inventories();
    }

    pub fn next_command(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    /// When [`Event::Tick`] is wanted at the latest. An earlier or a further one does no harm.
    pub fn next_wake(&self) -> Monotonic {
        if !self.is_leading() {
            return self.policies.wake_at().unwrap_or(NEVER);
        }
        let times = [
            self.deadlines.next(),
            self.queue.next_unpark(),
            self.next_rejection(),
            self.read_again_at,
            self.under_way.wake_at,
            self.wake_at,
            self.policies.wake_at(),
        ];
        times.into_iter().flatten().fold(self.next_silence_check, Monotonic::min)
    }

    /// Whether more of an input stream, or of STATES, may be handed in now.
    pub fn has_room(&self, stream: Stream) -> bool {
        !self.is_leading() || self.queue.has_room(stream)
    }

    /// Whether everything that was handed in has been dealt with.
    pub fn is_idle(&self) -> bool {
        self.batch.is_none()
            && self.ahead.is_none()
            && self.queue.is_empty()
            && self.rejections.is_empty()
            && self.in_flight.is_empty()
            && self.policies.is_idle()
            && self.commands.is_empty()
    }

    pub fn fleet(&self) -> &Fleet {
        &self.fleet
    }

    /// Pending approvals, breakers and the pause, by the logs.
    pub fn control(&self) -> &Control {
        &self.control
    }

    /// The highest term in the logs, and the process whose it is.
    pub fn term(&self) -> (u64, Option<&str>) {
        (self.term, self.leader.as_deref())
    }

    /// The states behind this sequence are to be handed in, all of them, and of those before it the last of each host: a leader may have ended before it
    /// answered them.
    pub fn states_from(&self) -> u64 {
        self.states_decided.saturating_sub(queue::ROOM as u64)
    }

    /// Isolations with a deadline to come.
    pub fn pending_deadlines(&self) -> usize {
        self.deadlines.pending()
    }

    /// One that is answered is only acknowledged.
    fn deliver(&mut self, delivered: Delivered) {
        let ticket = Ticket { stream: delivered.stream, sequence: delivered.message.sequence };
        match self.answered.contains(ticket.stream, ticket.sequence) {
            true => self.commands.push_back(Command::Ack(vec![ticket])),
            false => self.push(Item::Delivered(delivered)),
        }
    }

    /// A follower is handed no inputs; what was on its way to it comes again to the leader.
    fn push(&mut self, item: Item) {
        if self.is_leading() {
            self.queue.push(item);
        }
    }

    /// Begins what waits, for as long as it needs no answer of the shell.
    fn advance(&mut self, now: Now) {
        while self.batch.is_none() && self.is_leading() {
            if let Some(batch) = self.ahead.take() {
                self.resume(batch, now);
            } else if let Some(policy) = self.next_of_file() {
                self.activate_file(policy, now);
            } else if let Some(item) = self.next_activation() {
                self.resume(Batch::new(vec![item]), now);
            } else if let Some(batch) = self.queue.unpark(now.boot) {
                self.resume(batch, now);
            } else {
                match self.take_next() {
                    items if items.is_empty() => return,
                    items => self.resume(Batch::new(items), now),
                }
            }
        }
    }

    fn take_next(&mut self) -> Vec<Item> {
        self.queue.take(self.judges())
    }

    fn has_next(&self) -> bool {
        self.queue.is_waiting(self.judges())
    }

    /// With a policy on its way, a detection is not decided without one.
    fn judges(&self) -> bool {
        self.policy.is_some() || !self.policies.is_coming()
    }

    fn basis(&self) -> Basis<'_> {
        Basis {
            fleet: &self.fleet,
            control: &self.control,
            policy: self.policy.as_deref(),
            config: &self.config,
            leader_since: self.leader_since,
        }
    }

    fn decide_by(&mut self, policy: Option<Arc<Policy>>) {
        if let Some(policy) = &policy {
            self.fleet.count_by(policy);
        }
        self.policy = policy;
    }

    fn append(&mut self, log: Log, messages: Vec<Outgoing>) {
        let expected = self.position(log);
        let number = self.number(log);
        self.commands.push_back(Command::Append { number, log, messages, expected });
    }

    /// Reads a log on behind what is known of it.
    fn read_on(&mut self, log: Log) {
        let after = self.position(log);
        let number = self.number(log);
        self.commands.push_back(Command::Read { number, log, after });
    }

    fn position(&self, log: Log) -> u64 {
        match log {
            Log::Orders => self.orders,
            Log::Decisions => self.decisions,
        }
    }

    fn number(&mut self, log: Log) -> u64 {
        self.last_number += 1;
        self.awaited.insert(self.last_number, log);
        self.last_number
    }

    fn tick(&mut self, now: Now) {
        if !self.is_leading() {
            return;
        }
        self.retry_rejections(now);
        if self.read_again_at.is_some_and(|at| at <= now.boot) {
            self.read_again_at = None;
            self.read_on(Log::Orders);
        }
        for due in self.deadlines.due(now.boot) {
            let (host, generation) = (due.host.clone(), due.generation);
            match write::release_due(&self.prefix, due) {
                Ok(Outgoing { subject, body }) => {
                    self.commands.push_back(Command::ReleaseDue { host, generation, subject, body });
                }
                Err(why) => self.report(Report::Unanswerable { token: host.to_string(), why }),
            }
        }
        if now.boot < self.next_silence_check {
            return;
        }
        let late = now.boot - self.next_silence_check;
        self.next_silence_check = now.boot + SILENCE_CHECK;
        if late > PAUSED {
            self.fleet.forgive_silence(now.broker);
        }
        // Where the broker refused them.
        self.words_due = true;
        self.reset_breakers(now);
        self.announce_releases(now);
        // While the broker is away nobody can be heard, and silence means nothing.
        if self.connected {
            let mut notices = Vec::new();
            for inventory in self.fleet.fallen_silent(now.broker) {
                if !self.storing.contains(&inventory.hello.host) {
                    let notice = self.fleet.unreachable(&inventory);
                    self.report(Report::Unreachable { host: inventory.hello.host.clone(), since: inventory.silent_since });
                    self.store_inventory(inventory, now.broker);
                    notices.push((notice, now.broker));
                }
            }
            self.notify(notices, now);
        }
    }

    fn notify(&mut self, notices: impl IntoIterator<Item = (Notice, Timestamp)>, now: Now) {
        let mut written = Vec::new();
        for (notice, at) in notices {
            let Some(id) = self.notices.admit(&notice, now.boot) else { continue };
            match write::notice(&self.prefix, id, notice, at) {
                Ok(message) => written.push(message),
                Err(why) => self.report(Report::Unanswerable { token: "notice".into(), why }),
            }
        }
        if !written.is_empty() {
            self.commands.push_back(Command::Notify(written));
        }
    }

    fn report(&mut self, report: Report) {
        self.commands.push_back(Command::Report(report));
    }
}

#[cfg(test)]
mod tests;
