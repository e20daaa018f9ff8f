//! What follows from an order, a deadline, a local release or a start.

use std::time::Duration;

use portcullis_schemas::HostId;
use portcullis_schemas::envelope::Event;
use portcullis_schemas::events::{LastOrder, LocalActor, LocalRelease, Order, Posture, StateCause, WhenUnreachable};

use super::{Effect, Machine, Refusal, Report};
use crate::deadline::{self, Mark, Now};
use crate::record::{Opened, Record, StoredRecord, Trace, VERSION};

/// Why a host opened itself before its deadline.
const CUT: &str =
    "the isolation cut the route to the broker, which led through a process on this host; opened by when_unreachable: release";
const ORPHAN: &str = "rules of an isolation are in the kernel, and the posture file has none";
/// How often the rest of a deadline is written down.
const MARK_EVERY: Duration = Duration::from_secs(60);

impl Machine {
    /// How long until time alone changes something.
    pub(super) fn deadline(&self, now: &Now) -> Option<Duration> {
        let record = self.stored().record().filter(|record| record.posture == Posture::Isolated)?;
        let order = record.order.as_ref()?;
        let lost = self.lost_for(order, now).map(|lost| self.settings.grace.saturating_sub(lost));
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
        let due = deadline::due(order)?.saturating_add(self.settings.grace).saturating_sub(elapsed);
        let listened = Duration::from_millis(now.boot_ms.saturating_sub(self.listening_since_ms));
        Some(due.max(self.settings.grace.saturating_sub(listened)))
    }

    /// How long the broker is lost by the isolation's own doing; None where it is not, or where the order wants the host to stay.
    fn lost_for(&self, order: &Order, now: &Now) -> Option<Duration> {
        let lost = self.lost.filter(|_| order.when_unreachable == WhenUnreachable::Release)?;
        Some(Duration::from_millis(now.boot_ms.saturating_sub(lost.since_ms)))
    }

    pub(super) fn start(&mut self, enforced: Posture, recorded: bool, now: &Now) {
        self.listening_since_ms = now.boot_ms;
        self.kernel.enforced = enforced;
        // A record is on the disk before its rules are in force, and an opening is in one copy before the other one forgets the isolation: rules of
        // which neither copy knows mean that theirs was lost, or could not be written.
        let is_orphan = enforced == Posture::Isolated && self.posture() == Posture::Open && !recorded;
        if is_orphan {
            self.settings.stored = StoredRecord::Lost;
        }
        let is_unfrozen = |record: &Record| record.posture == Posture::Isolated && record.frozen.is_none();
        self.facts.wanted += u64::from(self.stored().record().is_some_and(is_unfrozen));
        self.answered = self.stored().record().and_then(|record| record.opened.as_ref()).map(|opened| opened.generation);
        match self.stored() {
            StoredRecord::Never => {}
            StoredRecord::Lost => {
                let error = is_orphan.then(|| ORPHAN.to_owned());
                let report = Report { error, ..self.report(StateCause::PostureLost) };
                self.kernel.change(None);
                self.report_after(report);
            }
            StoredRecord::Known(record) => {
                let cause = if record.mark.boot_id == now.boot_id { StateCause::Check } else { StateCause::Boot };
                let mark = record.mark.again(now);
                let next = Record { serial: record.serial + 1, mark, ..(**record).clone() };
                let untold = record.opened.as_ref().filter(|opened| !opened.told).map(|opened| opened.cause);
                let reports: Vec<_> = untold.into_iter().chain([cause]).map(|cause| self.report_of(record, cause)).collect();
                self.kernel.change(None);
                reports.into_iter().for_each(|report| self.report_after(report));
                self.keep(next, now);
            }
        }
    }

    pub(super) fn order(&mut self, subject: &HostId, event: &Event<Order>, acknowledged: bool, now: &Now) {
        let order = &event.data;
        if order.host != *self.me() || subject != self.me() {
            let other = if order.host == *self.me() { subject } else { &order.host };
            return self.refuse(Refusal::NotMine(other.clone()));
        }
        let taken = self.generation();
        if order.generation <= taken
            && let Some(record) = self.stored().record()
            && let Some(opened) = &record.opened
        {
            let answer = self.report_of(record, opened.cause);
            if !self.is_attempted() {
                // It is answered when the host is open.
            } else if self.is_first_answer(order.generation) {
                self.effects.push_back(Effect::Report(answer));
            } else if !acknowledged {
                self.effects.push_back(Effect::Resend);
            }
            return;
        }
        if order.generation < taken {
            return self.refuse(Refusal::Older { generation: order.generation, taken });
        }
        if order.generation == taken {
            if !acknowledged {
                self.effects.push_back(Effect::Resend);
            }
            return;
        }
        if let Some(refusal) = self.untakable(order, now) {
            let report = Report { error: Some(refusal.to_string()), ..answering(event) };
            if self.is_first_answer(order.generation) {
                self.refuse(refusal);
                self.effects.push_back(Effect::Report(report));
            }
            return;
        }
        let was = self.posture();
        let record = self.stored().record();
        let next = Record {
            version: VERSION,
            serial: record.map_or(1, |record| record.serial + 1),
            host: self.me().clone(),
            generation: order.generation,
            posture: order.posture,
            opened: None,
            order: Some(order.clone()),
            trace: trace(event),
            // Frozen once, as the rules are activated: an order that follows on an isolated host widens nothing.
            frozen: match order.posture {
                Posture::Isolated if was == Posture::Isolated => record.and_then(|record| record.frozen.clone()),
                _ => None,
            },
            mark: Mark::start(now),
        };
        if order.posture == Posture::Isolated {
            self.want_facts(was);
        }
        let report = Report { last_order: last_order(order), ..answering(event) };
        if was == Posture::Open && order.posture == Posture::Open {
            self.kernel.needs = next.serial;
            self.keep(next, now);
            self.report_after(report);
        } else {
            self.adopt(next, [report], now);
        }
    }

    /// The orchestrator orders again what the log has lost, as what it was.
    pub(super) fn log_ends(&mut self, generation: u64) {
        let Some(record) = self.stored().record().filter(|record| record.generation_of(self.me()) > generation) else {
            return;
        };
        let report = self.report_of(record, StateCause::Check);
        self.effects.push_back(Effect::Report(report));
    }

    /// Whether an order would isolate a host that is open.
    fn isolates(&self, order: &Order) -> bool {
        order.posture == Posture::Isolated && self.posture() == Posture::Open
    }

    fn untakable(&self, order: &Order, now: &Now) -> Option<Refusal> {
        let generation = order.generation;
        if let Some(needs) = order.min_agent.as_deref().filter(|needs| !reaches(&self.settings.agent_version, needs)) {
            return Some(Refusal::NewerAgent { generation, needs: needs.to_owned(), have: self.settings.agent_version.clone() });
        }
        if let Some(why) = self.cut_off.as_ref().filter(|_| self.isolates(order)) {
            return Some(Refusal::CutOff { generation, why: why.clone() });
        }
        // By the clock that stamped the order. Where that is not known, nothing says that it has expired, and it isolates.
        let (at, now) = order.expires_at.zip(now.broker).filter(|(at, now)| order.posture == Posture::Isolated && at <= now)?;
        let text = |time: portcullis_schemas::Timestamp| time.to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
        Some(Refusal::Expired { generation, at: text(at), now: text(now) })
    }

    pub(super) fn tick(&mut self, now: &Now) {
        let Some(record) = self.stored().record().filter(|record| record.posture == Posture::Isolated) else { return };
        let Some(order) = &record.order else { return };
        if self.lost_for(order, now).is_some_and(|lost| lost >= self.settings.grace) {
            return self.open(StateCause::Deadline, None, Some(CUT.to_owned()), now);
        }
        if !deadline::counts(order) {
            return;
        }
        let elapsed = record.mark.elapsed(now);
        let over = self.release_in(order, elapsed, now).is_some_and(|rest| rest.is_zero());
        if over && order.when_unreachable == WhenUnreachable::Release {
            return self.open(StateCause::Deadline, None, None, now);
        }
        let ended = deadline::ended(order, Duration::from_millis(record.mark.elapsed_ms), elapsed);
        if !ended && record.mark.age(now) < MARK_EVERY {
            return;
        }
        let next = Record { serial: record.serial + 1, mark: record.mark.again(now), ..record.clone() };
        if ended {
            let report = self.report_of(record, StateCause::Check);
            self.adopt(next, [report], now);
        } else {
            self.keep(next, now);
        }
    }

    pub(super) fn local(&mut self, actor: LocalActor, now: &Now) {
        if self.posture() == Posture::Open {
            return self.refuse(Refusal::AlreadyOpen);
        }
        // A lost record forbids nothing: root at the console is then the last way back.
        let order = self.stored().record().and_then(|record| record.order.as_ref());
        match order.map_or(LocalRelease::Root, |order| order.local_release) {
            LocalRelease::Root => self.open(StateCause::Local, Some(actor), None, now),
            LocalRelease::Token => self.refuse(Refusal::LocalToken),
            LocalRelease::Off => self.refuse(Refusal::LocalOff),
        }
    }

    /// The host opens itself: first written down, so that the order that isolated it is never obeyed again.
    fn open(&mut self, cause: StateCause, by: Option<LocalActor>, error: Option<String>, now: &Now) {
        let generation = self.generation();
        self.lost = None;
        let record = self.stored().record();
        let next = Record {
            version: VERSION,
            serial: record.map_or(1, |record| record.serial + 1),
            host: self.me().clone(),
            generation,
            posture: Posture::Open,
            opened: Some(Opened { generation, at: now.wall, cause, by, told: false }),
            order: record.and_then(|record| record.order.clone()),
            trace: record.map(|record| record.trace.clone()).unwrap_or_default(),
            frozen: None,
            mark: record.map_or_else(|| Mark::start(now), |record| record.mark.again(now)),
        };
        let report = Report { error, ..self.report_of(&next, cause) };
        self.answered = Some(generation);
        self.adopt(next, [report], now);
    }

    fn refuse(&mut self, refusal: Refusal) {
        self.effects.push_back(Effect::Refuse(refusal));
    }

    /// A record as the desired state, once more.
    pub(super) fn report_of(&self, record: &Record, cause: StateCause) -> Report {
        Report {
            generation: record.generation_of(self.me()),
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
    fn is_first_answer(&mut self, generation: u64) -> bool {
        self.answered.replace(generation) != Some(generation)
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
