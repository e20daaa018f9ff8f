//! Executes commands of the machine, each by itself; what is found comes back as an event.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use portcullis_bus::rejected::{self, Original};
use portcullis_bus::{AckHandle, Attempts, Broker, LiveSources, PublishError, log, policies, publish, stored};
use portcullis_core::machine::{Command, Event, Log, Outgoing, Report, Ticket};
use portcullis_policy::Policy;
use portcullis_schemas::subjects::{POLICY, TERM};
use portcullis_schemas::{Prefix, Stream};
use tokio::sync::mpsc;

use crate::{failpoint, metrics};

const RETRY: Duration = Duration::from_secs(1);
/// Notices in one atomic batch; 1,000 are the most.
const TOGETHER: usize = 512;

/// What commands are executed with.
#[derive(Clone)]
pub struct Bus {
    pub broker: Broker,
    pub prefix: Prefix,
    pub attempts: Attempts,
    pub live: LiveSources,
}

pub struct Executor {
    bus: Bus,
    found: mpsc::UnboundedSender<Event>,
}

impl Executor {
    pub fn new(bus: Bus, found: mpsc::UnboundedSender<Event>) -> Self {
        Self { bus, found }
    }

    pub fn bus(&self) -> &Bus {
        &self.bus
    }

    /// Keeps the text of a policy, which decides once that is done.
    pub fn keep_policy(&self, policy: Arc<Policy>, text: Arc<str>) {
        let (bus, found) = (self.bus.clone(), self.found.clone());
        tokio::spawn(async move {
            while let Err(error) = policies::keep(&bus.broker, &bus.prefix, policy.hash(), text.to_string()).await {
                tracing::warn!(hash = policy.hash(), error = format!("{error:#}"), "policy not kept, will retry");
                tokio::time::sleep(RETRY).await;
            }
            let _ = found.send(Event::Policy(policy));
        });
    }

    pub fn execute(&self, command: Command, in_hand: &mut HashMap<Ticket, AckHandle>) {
        if let Command::Report(report) = command {
            return self.report(report);
        }
        let (bus, found) = (self.bus.clone(), self.found.clone());
        let tell = move |event| drop(found.send(event));
        match command {
            Command::Append { number, log, messages, expected } => {
                let is_term = messages.first().is_some_and(|message| message.subject.ends_with(TERM));
                failpoint::reach(match log {
                    _ if messages.first().is_some_and(|message| message.subject.ends_with(POLICY)) => "orchestrator.activating",
                    Log::Decisions if is_term => "orchestrator.leading",
                    Log::Orders if is_term => "orchestrator.fencing",
                    Log::Orders => "orchestrator.decided",
                    Log::Decisions => "orchestrator.ordered",
                });
                tokio::spawn(async move {
                    let appended = log::append(&bus.broker, messages, expected).await;
                    tell(Event::Appended(number, appended));
                });
            }
            Command::Read { number, log, after } => {
                tokio::spawn(async move {
                    let stream = bus.prefix.stream(log.stream());
                    let read = log::read_on(&bus.broker, &stream, after).await;
                    tell(Event::Read(number, read));
                });
            }
            Command::Mark(ticket) => {
                tokio::spawn(async move {
                    let marked = bus.attempts.mark(ticket).await;
                    tell(Event::Marked(ticket, marked.map_err(|error| format!("{error:#}"))));
                });
            }
            Command::Ack(tickets) => {
                failpoint::reach("orchestrator.recorded");
                let acks: Vec<AckHandle> = tickets.iter().filter_map(|ticket| in_hand.remove(ticket)).collect();
                tokio::spawn(async move {
                    // The last one is confirmed. Another consumer's may be lost behind it with the server: it comes again, and is known.
                    let Some((last, others)) = acks.split_last() else { return };
                    for ack in others {
                        bus.attempts.end(ack).await;
                        ack.end().await;
                    }
                    bus.attempts.end(last).await;
                    last.done().await;
                    failpoint::reach("orchestrator.acked");
                });
            }
            Command::Defer(ticket, delay) => {
                let Some(ack) = in_hand.remove(&ticket) else { return };
                tokio::spawn(async move {
                    bus.attempts.end(&ack).await;
                    ack.later(delay).await;
                });
            }
            Command::Reject { number, kind, stored, message, why } => {
                tokio::spawn(async move {
                    let original = Original { kind, stored, message: &message };
                    tell(Event::Kept(number, rejected::keep(&bus.broker, &bus.prefix, &original, &why).await));
                });
            }
            Command::Fetch(ticket) => {
                tokio::spawn(async move {
                    let stream = bus.prefix.stream(ticket.stream);
                    let found = stored::next(&bus.broker, &stream, ticket.sequence).await;
                    let found = found.map(|found| found.filter(|message| message.sequence == ticket.sequence));
                    tell(Event::Fetched(ticket, found.map_err(|error| error.to_string())));
                });
            }
            Command::FetchPolicy(hash) => {
                tokio::spawn(async move {
                    let text = policies::read(&bus.broker, &bus.prefix, &hash).await;
                    tell(Event::PolicyFetched(hash, text.map_err(|error| format!("{error:#}"))));
                });
            }
            Command::StoreInventories(messages) => {
                tokio::spawn(async move {
                    tell(Event::InventoriesStored(log::store_all(&bus.broker, messages).await.map_err(|error| error.to_string())))
                });
            }
            Command::ReleaseDue { host, generation, subject, body } => {
                failpoint::reach("scheduler.due");
                tokio::spawn(async move {
                    let published = publish(&bus.broker, subject, body).await;
                    failpoint::reach("scheduler.published");
                    match published {
                        Ok(_) => tracing::info!(%host, generation, "deadline reached: release-due published"),
                        Err(error) => {
                            tracing::warn!(%host, generation, %error, "release-due not stored, will retry");
                            tell(Event::ReleaseRefused(host, generation));
                        }
                    }
                });
            }
            Command::Notify(notices) => {
                tokio::spawn(async move { notify(&bus.broker, notices).await });
            }
            // The loop's own, and the report that was made above.
            Command::Begin | Command::StepDown | Command::Report(_) => {}
        }
    }

    fn report(&self, report: Report) {
        match report {
            Report::Input(kind) => metrics::input(kind),
            Report::Faults { token, id, faults, first } => {
                tracing::warn!(token, id, faults, first, "detection has members that cannot be read; they decide nothing");
            }
            Report::Verdict(verdict) => metrics::verdict(verdict),
            Report::Ordered { host, generation, posture, reason, latency } => {
                metrics::ordered(posture, latency);
                tracing::info!(%host, generation, posture = posture.as_str(), reason, "order stored");
            }
            Report::Leading { term } => tracing::info!(term, "leader: term begun"),
            Report::Following { term, leader } => tracing::warn!(term, leader, "follower: another orchestrator leads"),
            Report::NotLeading(why) => tracing::info!(why, "term not begun, will retry while no other orchestrator leads"),
            Report::PolicyActivated { hash: Some(hash) } => tracing::info!(hash, "policy active"),
            Report::PolicyActivated { hash: None } => {
                tracing::warn!("policy of the leader before no longer active: detections wait for a person until one is loaded");
            }
            Report::FileNotActive { file, active, by } => tracing::warn!(
                file,
                active,
                by,
                "policy file not active: another policy was activated since; `portcullis policy apply` or a change of the file activates it"
            ),
            Report::PolicyMissing { hash, problem } => tracing::error!(
                hash,
                problem,
                "text of the active policy missing: detections wait for a person until a policy is applied"
            ),
            Report::ForeignTerm(term) => {
                metrics::foreign();
                tracing::error!(
                    term,
                    "record of a term ignored, it is too far ahead: another writer publishes in ORDERS or DECISIONS"
                );
            }
            Report::ChainBroken { sequence } => {
                metrics::foreign();
                let stream = self.bus.prefix.stream(Stream::Orders);
                tracing::error!(
                    stream,
                    sequence,
                    "message does not follow from the one before it: another writer publishes there"
                );
            }
            Report::InventoriesRefused { hosts, error } => {
                tracing::warn!(hosts, error, "inventories not stored, the next hello of each host retries");
            }
            Report::Overtaken(log) => {
                metrics::overtaken();
                tracing::debug!(?log, "compare-and-set lost: another writer was faster, deciding again");
            }
            Report::NotAnOrder { subject, sequence, why } => {
                metrics::foreign();
                let stream = self.bus.prefix.stream(Stream::Orders);
                tracing::error!(
                    stream,
                    subject,
                    sequence,
                    %why,
                    "stream holds a message that is no order: another writer publishes there"
                );
            }
            Report::Rejected(why) => metrics::rejected(why.code()),
            Report::TooLargeToKeep { subject, bytes, why } => {
                tracing::error!(subject, bytes, %why, "input rejected and not copied: larger than the broker takes with its reason");
            }
            Report::Retry { step, error, pause } => {
                tracing::warn!(step, error, pause_ms = pause.as_millis(), "input delayed: step failed, will retry");
            }
            Report::Unanswerable { token, why } => tracing::error!(token, %why, "input has no answer: it cannot be stored"),
            Report::Unreachable { host, since } => {
                let last_hello = since.map(|since| since.to_rfc3339());
                tracing::warn!(%host, last_hello, "host unreachable: heartbeats missed");
            }
        }
    }
}

/// Stores notices together. Where that is refused each is tried by itself: one that no stream takes must not take others with it.
async fn notify(broker: &Broker, notices: Vec<Outgoing>) {
    for some in notices.chunks(TOGETHER) {
        let Err(error) = log::store_all(broker, some.to_vec()).await else { continue };
        // They may be stored: whoever is paged by them is not to be paged twice.
        if matches!(error, PublishError::Unclear(_)) {
            tracing::error!(notices = some.len(), %error, "notices not confirmed: they may be missing");
        } else {
            tracing::debug!(notices = some.len(), %error, "notices not stored together, will retry each");
            for Outgoing { subject, body } in some.iter().cloned() {
                let broker = broker.clone();
                tokio::spawn(async move {
                    if let Err(error) = publish(&broker, subject.clone(), body).await {
                        tracing::error!(subject, %error, "notice not stored");
                    }
                });
            }
        }
    }
}
