//! Executes commands of the machine, each by itself; what is found comes back as an event.

use std::collections::HashMap;

use portcullis_bus::rejected::{self, Original};
use portcullis_bus::{Attempts, Broker, Delivery, log, publish};
use portcullis_core::machine::{Command, Event, Log, Report, Ticket};
use portcullis_schemas::{Prefix, Stream};
use tokio::sync::mpsc;

use crate::{failpoint, metrics};

/// What commands are executed with.
#[derive(Clone)]
pub struct Tools {
    pub broker: Broker,
    pub prefix: Prefix,
    pub attempts: Attempts,
}

pub struct Hands {
    tools: Tools,
    found: mpsc::UnboundedSender<Event>,
}

impl Hands {
    pub fn new(tools: Tools, found: mpsc::UnboundedSender<Event>) -> Self {
        Self { tools, found }
    }

    pub fn execute(&self, command: Command, in_hand: &mut HashMap<Ticket, Delivery>) {
        let (tools, found) = (self.tools.clone(), self.found.clone());
        let tell = move |event| drop(found.send(event));
        match command {
            Command::Append { log, subject, body, expected } => {
                failpoint::reach(if log == Log::Orders { "orchestrator.decided" } else { "orchestrator.ordered" });
                tokio::spawn(async move {
                    let appended = log::append(&tools.broker, subject, body, expected).await;
                    tell(Event::Appended(log, appended));
                });
            }
            Command::Read { log, after } => {
                if log == Log::Orders {
                    failpoint::reach("orchestrator.decided");
                }
                tokio::spawn(async move {
                    let stream = tools.prefix.stream(log.stream());
                    let read = log::read_on(&tools.broker, &stream, after).await;
                    tell(Event::Read(log, read));
                });
            }
            Command::Mark(ticket) => {
                tokio::spawn(async move {
                    let marked = tools.attempts.mark(ticket).await;
                    tell(Event::Marked(marked.map_err(|error| format!("{error:#}"))));
                });
            }
            Command::Ack(ticket) => {
                failpoint::reach("orchestrator.recorded");
                let Some(delivery) = in_hand.remove(&ticket) else { return };
                tokio::spawn(async move {
                    tools.attempts.end(&delivery).await;
                    delivery.done().await;
                    failpoint::reach("orchestrator.acked");
                });
            }
            Command::Defer(ticket, delay) => {
                let Some(delivery) = in_hand.remove(&ticket) else { return };
                tokio::spawn(async move {
                    tools.attempts.end(&delivery).await;
                    delivery.later(delay).await;
                });
            }
            Command::Reject { kind, stored, message, why } => {
                tokio::spawn(async move {
                    let original = Original { kind, stored, message: &message };
                    tell(Event::Kept(rejected::keep(&tools.broker, &tools.prefix, &original, &why).await));
                });
            }
            Command::StoreInventory { host, subject, body } => {
                tokio::spawn(async move {
                    if let Err(error) = publish(&tools.broker, subject, body).await {
                        tracing::warn!(%host, %error, "inventory not stored, the next hello retries");
                        tell(Event::InventoryRefused(host));
                    }
                });
            }
            Command::ReleaseDue { host, generation, subject, body } => {
                failpoint::reach("scheduler.due");
                tokio::spawn(async move {
                    let published = publish(&tools.broker, subject, body).await;
                    failpoint::reach("scheduler.said");
                    match published {
                        Ok(_) => tracing::info!(%host, generation, "deadline reached: release-due published"),
                        Err(error) => {
                            tracing::warn!(%host, generation, %error, "release-due not stored, will retry");
                            tell(Event::ReleaseRefused(host, generation));
                        }
                    }
                });
            }
            Command::Notify { subject, body } => {
                tokio::spawn(async move {
                    if let Err(error) = publish(&tools.broker, subject.clone(), body).await {
                        tracing::error!(subject, %error, "notice not stored");
                    }
                });
            }
            Command::Report(report) => self.report(report),
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
            Report::Overtaken(log) => {
                metrics::overtaken();
                tracing::debug!(?log, "compare-and-set lost: another writer was faster, deciding again");
            }
            Report::NotAnOrder(why) => {
                let stream = self.tools.prefix.stream(Stream::Orders);
                tracing::error!(stream, %why, "stream holds a message that is no order: another writer publishes there");
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
