//! What to do about an order, a deadline, a local release or a start, as a function of what stands: effects are values.

use std::time::Duration;

use portcullis_schemas::HostId;
use portcullis_schemas::envelope::Event;
use portcullis_schemas::events::{LastOrder, LocalActor, LocalRelease, Order, Posture, StateCause, Tamper, WhenUnreachable};

use crate::deadline::{self, Mark, Now};
use crate::record::{Opened, Record, Standing, Trace, VERSION};

/// Why a host opened itself before its deadline.
const CUT: &str =
    "the isolation cut the way to the broker, which led through a process on this host; opened by when_unreachable: release";
/// How often the rest of a deadline is written down.
const MARK_EVERY: Duration = Duration::from_secs(60);

/// One host's agent, as far as it decides.
#[derive(Clone, Debug)]
pub struct Host {
    pub me: HostId,
    pub agent_version: String,
    /// How long an order is waited for after the deadline.
    pub grace: Duration,
    pub standing: Standing,
    /// CLOCK_BOOTTIME at the start of this process: orders cannot have been heard before.
    pub listening_since_ms: u64,
    /// Why an isolation would cut this host off from every broker, so that no order would reach it any more. Where that is so, an open host is
    /// not isolated; a posture that stands is kept.
    pub cut_off: Option<String>,
    /// The isolation itself has cut the way to the broker: it then lasts for the grace time, where its order does not want it to stay.
    pub lost: Option<Lost>,
    /// The last order that was refused or answered, so that reading it again says nothing new.
    pub told: Option<u64>,
}

/// A broker that is not reached since the gate dropped, by the gate's own doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost {
    /// CLOCK_BOOTTIME as the gate dropped.
    pub since_ms: u64,
}

/// What can change what a host enforces.
#[derive(Clone, Debug)]
pub enum Cause<'a> {
    /// The process has started; what stands was read from the disk.
    Start,
    /// An order, stored by the broker; `subject` is the host of the subject that it came by.
    Order { subject: &'a HostId, event: &'a Event<Order>, acknowledged: bool },
    /// The log of orders ends below what stands here (0: it has no order for this host): it was lost, or restored from a copy.
    LogEnds { generation: u64 },
    /// Time has passed.
    Tick,
    /// Root on the host wants it open.
    LocalRelease(LocalActor),
}

/// In the order in which they are to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Durable before what follows. Where it isolates and holds nothing frozen, what the host knows is frozen into it first.
    Persist(Box<Record>),
    /// The kernel is made to hold what stands.
    Enforce,
    Report(Report),
    /// State events that wait for their acknowledgement are sent again at once.
    Resend,
    Refuse(Refusal),
}

/// A state event, as far as it is decided here; the rest is what the kernel gave back.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// The generation that is answered.
    pub generation: u64,
    pub cause: StateCause,
    pub opened: Option<Opened>,
    pub tamper: Option<Box<Tamper>>,
    pub last_order: Option<Box<LastOrder>>,
    pub error: Option<String>,
    pub trace: Trace,
    pub incident: Option<String>,
}

/// Why something was not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("an order for host {0} came to this host; it is not taken")]
    NotMine(HostId),
    #[error("generation {generation} is older than {standing}, which stands")]
    Older { generation: u64, standing: u64 },
    #[error("order {generation} is not taken: it expired at {at}, and the broker's time is {now}; issue it again")]
    Expired { generation: u64, at: String, now: String },
    #[error("order {generation} is not taken: it needs agent {needs} and this is {have}; upgrade the agent")]
    NewerAgent { generation: u64, needs: String, have: String },
    #[error("order {generation} is not taken: {why}")]
    CutOff { generation: u64, why: String },
    #[error("this host is open already")]
    AlreadyOpen,
    #[error("the order in force does not allow a local release; ask an operator of the orchestrator")]
    LocalOff,
    #[error("the order in force wants a release token, which this agent cannot check yet; ask an operator of the orchestrator")]
    LocalToken,
}

impl Host {
    /// Decides everything; what is done later is not decided again.
    pub fn handle(&mut self, cause: Cause<'_>, now: &Now) -> Vec<Effect> {
        match cause {
            Cause::Start => self.start(now),
            Cause::Order { subject, event, acknowledged } => self.order(subject, event, acknowledged, now),
            Cause::LogEnds { generation } => self.log_ends(generation),
            Cause::Tick => self.tick(now),
            Cause::LocalRelease(actor) => self.local(actor, now),
        }
    }

    /// What stands, told for another reason than an order, a deadline or a start.
    pub fn stands(&self, cause: StateCause) -> Report {
        match self.standing.record() {
            Some(record) => self.report(record, cause),
            None => Report {
                generation: 0,
                cause,
                opened: None,
                tamper: None,
                last_order: None,
                error: None,
                trace: Trace::default(),
                incident: None,
            },
        }
    }

    /// How long until time alone changes something.
    pub fn wake(&self, now: &Now) -> Option<Duration> {
        let record = self.standing.record().filter(|record| record.posture == Posture::Isolated)?;
        let order = record.order.as_ref()?;
        let lost = self.lost_for(order, now).map(|lost| self.grace.saturating_sub(lost));
        if !deadline::counts(order) {
            return lost;
        }
        let elapsed = record.mark.elapsed(now);
        let mark = MARK_EVERY.saturating_sub(record.mark.age(now));
        let release = self.release_in(order, elapsed, now).filter(|_| order.when_unreachable == WhenUnreachable::Release);
        [lost, release, deadline::next_end(order, elapsed)].into_iter().flatten().chain([mark]).min()
    }

    /// Until the host opens itself: the grace time runs from the deadline, or from the start of a process that could not have
    /// heard an order before.
    fn release_in(&self, order: &Order, elapsed: Duration, now: &Now) -> Option<Duration> {
        let due = deadline::due(order)?.saturating_add(self.grace).saturating_sub(elapsed);
        let listened = Duration::from_millis(now.boot_ms.saturating_sub(self.listening_since_ms));
        Some(due.max(self.grace.saturating_sub(listened)))
    }

    /// How long the broker is lost by the isolation's own doing; None where it is not, or where the order wants the host to stay.
    fn lost_for(&self, order: &Order, now: &Now) -> Option<Duration> {
        let lost = self.lost.filter(|_| order.when_unreachable == WhenUnreachable::Release)?;
        Some(Duration::from_millis(now.boot_ms.saturating_sub(lost.since_ms)))
    }

    fn start(&mut self, now: &Now) -> Vec<Effect> {
        self.listening_since_ms = now.boot_ms;
        self.told = self.standing.record().and_then(|record| record.opened.as_ref()).map(|opened| opened.generation);
        match &self.standing {
            Standing::Never => Vec::new(),
            Standing::Lost => {
                let cause = StateCause::PostureLost;
                vec![Effect::Enforce, Effect::Report(self.stands(cause))]
            }
            Standing::Known(record) => {
                let cause = if record.mark.boot_id == now.boot_id { StateCause::Check } else { StateCause::Boot };
                let mark = record.mark.again(now);
                let next = Record { serial: record.serial + 1, mark, ..(**record).clone() };
                let untold = record.opened.as_ref().filter(|opened| !opened.told).map(|opened| opened.cause);
                let reports = untold.into_iter().chain([cause]).map(|cause| Effect::Report(self.report(record, cause)));
                [Effect::Enforce].into_iter().chain(reports).chain([Effect::Persist(Box::new(next))]).collect()
            }
        }
    }

    fn order(&mut self, subject: &HostId, event: &Event<Order>, acknowledged: bool, now: &Now) -> Vec<Effect> {
        let order = &event.data;
        if order.host != self.me || *subject != self.me {
            let other = if order.host == self.me { subject } else { &order.host };
            return vec![Effect::Refuse(Refusal::NotMine(other.clone()))];
        }
        let stands = self.standing.generation(&self.me);
        let record = self.standing.record();
        if let Some((record, opened)) = record.and_then(|r| Some((r, r.opened.as_ref()?))).filter(|_| order.generation <= stands)
        {
            let again = if acknowledged { Vec::new() } else { vec![Effect::Resend] };
            let answer = vec![Effect::Report(self.report(record, opened.cause))];
            return if self.tell(order.generation) { answer } else { again };
        }
        if order.generation < stands {
            return vec![Effect::Refuse(Refusal::Older { generation: order.generation, standing: stands })];
        }
        if order.generation == stands {
            return if acknowledged { Vec::new() } else { vec![Effect::Resend] };
        }
        if let Some(refusal) = self.untakable(order, now) {
            let report = Report { error: Some(refusal.to_string()), ..answering(event) };
            let first = self.tell(order.generation);
            return if first { vec![Effect::Refuse(refusal), Effect::Report(report)] } else { Vec::new() };
        }
        let was = self.standing.posture();
        let next = Record {
            version: VERSION,
            serial: record.map_or(1, |record| record.serial + 1),
            host: self.me.clone(),
            generation: order.generation,
            posture: order.posture,
            opened: None,
            order: Some(order.clone()),
            trace: trace(event),
            // Frozen once, as the gate drops: an order that follows on an isolated host widens nothing.
            frozen: match order.posture {
                Posture::Isolated if was == Posture::Isolated => record.and_then(|record| record.frozen.clone()),
                _ => None,
            },
            mark: Mark::start(now),
        };
        let mut effects = vec![Effect::Persist(Box::new(next))];
        if !(was == Posture::Open && order.posture == Posture::Open) {
            effects.push(Effect::Enforce);
        }
        effects.push(Effect::Report(Report { last_order: last_order(order), ..answering(event) }));
        effects
    }

    /// The orchestrator orders again what the log has lost, as what it was.
    fn log_ends(&self, generation: u64) -> Vec<Effect> {
        let Some(record) = self.standing.record().filter(|record| record.generation_of(&self.me) > generation) else {
            return Vec::new();
        };
        vec![Effect::Report(self.report(record, StateCause::Check))]
    }

    /// Whether an order would isolate a host that is open.
    fn isolates(&self, order: &Order) -> bool {
        order.posture == Posture::Isolated && self.standing.posture() == Posture::Open
    }

    fn untakable(&self, order: &Order, now: &Now) -> Option<Refusal> {
        let generation = order.generation;
        if let Some(needs) = order.min_agent.as_deref().filter(|needs| !reaches(&self.agent_version, needs)) {
            return Some(Refusal::NewerAgent { generation, needs: needs.to_owned(), have: self.agent_version.clone() });
        }
        if let Some(why) = self.cut_off.as_ref().filter(|_| self.isolates(order)) {
            return Some(Refusal::CutOff { generation, why: why.clone() });
        }
        // By the clock that stamped the order. Where that is not known, nothing says that it has expired, and it isolates.
        let (at, now) = order.expires_at.zip(now.broker).filter(|(at, now)| order.posture == Posture::Isolated && at <= now)?;
        let text = |time: portcullis_schemas::Timestamp| time.to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
        Some(Refusal::Expired { generation, at: text(at), now: text(now) })
    }

    fn tick(&mut self, now: &Now) -> Vec<Effect> {
        let Some(record) = self.standing.record().filter(|record| record.posture == Posture::Isolated) else { return Vec::new() };
        let Some(order) = &record.order else { return Vec::new() };
        if self.lost_for(order, now).is_some_and(|lost| lost >= self.grace) {
            let mut effects = self.open(StateCause::Deadline, None, now);
            for effect in &mut effects {
                if let Effect::Report(report) = effect {
                    report.error = Some(CUT.to_owned());
                }
            }
            return effects;
        }
        if !deadline::counts(order) {
            return Vec::new();
        }
        let elapsed = record.mark.elapsed(now);
        let over = self.release_in(order, elapsed, now).is_some_and(|rest| rest.is_zero());
        if over && order.when_unreachable == WhenUnreachable::Release {
            return self.open(StateCause::Deadline, None, now);
        }
        let ended = deadline::ended(order, Duration::from_millis(record.mark.elapsed_ms), elapsed);
        if !ended && record.mark.age(now) < MARK_EVERY {
            return Vec::new();
        }
        let next = Record { serial: record.serial + 1, mark: record.mark.again(now), ..record.clone() };
        let mut effects = vec![Effect::Persist(Box::new(next))];
        if ended {
            effects.extend([Effect::Enforce, Effect::Report(self.report(record, StateCause::Check))]);
        }
        effects
    }

    fn local(&mut self, actor: LocalActor, now: &Now) -> Vec<Effect> {
        if self.standing.posture() == Posture::Open {
            return vec![Effect::Refuse(Refusal::AlreadyOpen)];
        }
        // A lost record forbids nothing: root at the console is then the last way back.
        let allowed = self.standing.record().and_then(|record| record.order.as_ref()).map(|order| order.local_release);
        match allowed.unwrap_or(LocalRelease::Root) {
            LocalRelease::Root => self.open(StateCause::Local, Some(actor), now),
            LocalRelease::Token => vec![Effect::Refuse(Refusal::LocalToken)],
            LocalRelease::Off => vec![Effect::Refuse(Refusal::LocalOff)],
        }
    }

    /// The host opens itself: first written down, so that the order that isolated it is never obeyed again.
    fn open(&mut self, cause: StateCause, by: Option<LocalActor>, now: &Now) -> Vec<Effect> {
        let generation = self.standing.generation(&self.me);
        self.lost = None;
        let record = self.standing.record();
        let next = Record {
            version: VERSION,
            serial: record.map_or(1, |record| record.serial + 1),
            host: self.me.clone(),
            generation,
            posture: Posture::Open,
            opened: Some(Opened { generation, at: now.wall, cause, by, told: false }),
            order: record.and_then(|record| record.order.clone()),
            trace: record.map(|record| record.trace.clone()).unwrap_or_default(),
            frozen: None,
            mark: record.map_or_else(|| Mark::start(now), |record| record.mark.again(now)),
        };
        let report = self.report(&next, cause);
        self.told = Some(generation);
        vec![Effect::Persist(Box::new(next)), Effect::Enforce, Effect::Report(report)]
    }

    /// What stands, once more.
    fn report(&self, record: &Record, cause: StateCause) -> Report {
        Report {
            generation: record.generation_of(&self.me),
            cause,
            opened: record.opened.clone(),
            tamper: None,
            last_order: record.order.as_ref().filter(|_| record.posture == Posture::Isolated).and_then(last_order),
            error: None,
            trace: record.trace.clone(),
            incident: record.order.as_ref().map(|order| order.incident.clone()),
        }
    }

    /// True the first time.
    fn tell(&mut self, generation: u64) -> bool {
        self.told.replace(generation) != Some(generation)
    }
}

fn answering(event: &Event<Order>) -> Report {
    let incident = Some(event.data.incident.clone());
    Report {
        generation: event.data.generation,
        cause: StateCause::Order,
        opened: None,
        tamper: None,
        last_order: None,
        error: None,
        trace: trace(event),
        incident,
    }
}

fn last_order(order: &Order) -> Option<Box<LastOrder>> {
    LastOrder::of(order).map(Box::new)
}

fn trace(event: &Event<Order>) -> Trace {
    Trace { id: Some(event.id.clone()), traceparent: event.traceparent.clone(), correlation: event.correlation.clone() }
}

/// Whether version `have` is `needs` or later. What cannot be read is not reached.
fn reaches(have: &str, needs: &str) -> bool {
    let parse = |text: &str| {
        let parts: Option<Vec<u64>> = text.split(['-', '+']).next()?.split('.').map(|part| part.parse().ok()).collect();
        parts.filter(|parts| parts.len() == 3)
    };
    matches!((parse(have), parse(needs)), (Some(have), Some(needs)) if have >= needs)
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
