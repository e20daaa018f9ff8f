//! The scheduler: says `release-due` when an order's deadline has come. Its memory is the log of orders.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream;
use chrono::{DateTime, Utc};
use portcullis_core::deadlines::{Deadlines, Due, Monotonic};
use portcullis_schemas::envelope::{self, CONTENT_TYPE, Event};
use portcullis_schemas::events::{Order, ReleaseDue};
use portcullis_schemas::{HostId, Prefix, Stream, ids};
use tokio::sync::{Notify, watch};
use tokio_cron_scheduler::{Job, JobScheduler};

use crate::{clock, figures, steps};

/// The tick comes every second. When it has not come for this long the sweep wakes itself.
const TICK_LATE: Duration = Duration::from_secs(3);
/// What the broker did not take is said again after this long.
const UNHEARD: Duration = Duration::from_secs(1);
/// A sweep sleeps no longer than this, so that a late tick is noticed.
const NAP: Duration = Duration::from_secs(5);

/// Deadlines, shared by the sweep that says them and the engine that checks them.
#[derive(Clone)]
pub struct Schedule {
    deadlines: Arc<Mutex<Deadlines>>,
    changed: Arc<Notify>,
    /// The boot clock and the broker's time at one moment: from then on the broker's time is carried on by the boot clock.
    anchor: (Monotonic, DateTime<Utc>),
}

impl Schedule {
    /// `broker_now` is the broker's time at this moment.
    pub fn new(broker_now: DateTime<Utc>) -> Self {
        Self { deadlines: Arc::default(), changed: Arc::default(), anchor: (clock::monotonic(), broker_now) }
    }

    /// Follows an order that was stored just now: all of its time is left.
    pub fn follow_live(&self, order: &Order) {
        self.follow(order, None);
    }

    /// Follows an order that was stored at some time: what is left is judged on the broker's time.
    pub fn follow_read(&self, order: &Order) {
        let carried = clock::monotonic().saturating_sub(self.anchor.0);
        self.follow(order, Some(self.anchor.1 + carried));
    }

    fn follow(&self, order: &Order, broker_now: Option<DateTime<Utc>>) {
        self.lock().follow(order, clock::monotonic(), broker_now);
        self.changed.notify_one();
    }

    /// What is left of a deadline; None where no such generation is waited for.
    pub fn rest(&self, host: &HostId, generation: u64) -> Option<Duration> {
        self.lock().rest(host, generation, clock::monotonic())
    }

    /// A release that was not taken is said again soon.
    fn again(&self, host: &HostId, generation: u64) {
        self.lock().again(host, generation, clock::monotonic() + UNHEARD);
    }

    fn lock(&self) -> MutexGuard<'_, Deadlines> {
        // The map is whole after every call: a panic elsewhere does not make it wrong.
        self.deadlines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Starts the tick and the sweep.
pub async fn spawn(schedule: Schedule, context: jetstream::Context, prefix: Prefix) -> anyhow::Result<()> {
    let (ticked, mut tick) = watch::channel(clock::monotonic());
    let jobs = JobScheduler::new().await?;
    // A job of the cron type: the crate's repeated jobs stop for good when the process was stopped for a while.
    let job = Job::new("* * * * * *", move |_, _| {
        ticked.send_replace(clock::monotonic());
    })?;
    jobs.add(job).await?;
    jobs.start().await?;
    tokio::spawn(async move {
        // It stops ticking when it is dropped.
        let _jobs = jobs;
        let mut lateness_said = false;
        loop {
            let now = clock::monotonic();
            let due = schedule.lock().due(now);
            if !due.is_empty() {
                steps::step("scheduler.due");
                say(&schedule, &context, &prefix, due).await;
                steps::step("scheduler.said");
            }
            let (next, pending) = {
                let deadlines = schedule.lock();
                (deadlines.next(), deadlines.pending())
            };
            let now = clock::monotonic();
            let age = now.saturating_sub(*tick.borrow_and_update());
            figures::scheduler(pending, age);
            if age > TICK_LATE && !lateness_said {
                tracing::error!(age_s = age.as_secs(), "the scheduler's tick is late; the sweep wakes itself");
            }
            lateness_said = age > TICK_LATE;
            let nap = next.map_or(NAP, |next| next.saturating_sub(now)).min(NAP);
            tokio::select! {
                () = tokio::time::sleep(nap) => {}
                () = schedule.changed.notified() => {}
                // A sender that is gone would be ready at once, and for ever.
                result = tick.changed() => if result.is_err() { tokio::time::sleep(Duration::from_millis(500)).await },
            }
        }
    });
    Ok(())
}

/// Publishes what is due. It is said again after a while, until a higher generation stands.
async fn say(schedule: &Schedule, context: &jetstream::Context, prefix: &Prefix, due: Vec<Due>) {
    let mut acks = Vec::new();
    for due in due {
        let (host, generation) = (due.host.clone(), due.generation);
        match publish(context, prefix, due).await {
            Ok(ack) => acks.push((host, generation, ack)),
            Err(error) => unheard(schedule, &host, generation, &error),
        }
        // More than the client lets be in flight would wait for itself.
        if acks.len() >= 500 {
            settle(schedule, &mut acks).await;
        }
    }
    settle(schedule, &mut acks).await;
}

type Ack = (HostId, u64, jetstream::context::PublishAckFuture);

async fn settle(schedule: &Schedule, acks: &mut Vec<Ack>) {
    for (host, generation, ack) in acks.drain(..) {
        match ack.await {
            Ok(_) => tracing::info!(%host, generation, "the deadline came: release-due"),
            Err(error) => unheard(schedule, &host, generation, &error.into()),
        }
    }
}

fn unheard(schedule: &Schedule, host: &HostId, generation: u64, error: &anyhow::Error) {
    tracing::warn!(%host, generation, error = format!("{error:#}"), "the broker did not take a release that is due; it is said again");
    schedule.again(host, generation);
}

async fn publish(
    context: &jetstream::Context,
    prefix: &Prefix,
    due: Due,
) -> anyhow::Result<jetstream::context::PublishAckFuture> {
    let host = due.host.to_string();
    let event = Event {
        id: ids::digest(["release-due", &host, &due.generation.to_string()]),
        source: "/portcullis/scheduler".into(),
        subject: Some(host.clone()),
        time: Some(due.due_at),
        traceparent: None,
        correlation: None,
        causation: None,
        data: ReleaseDue { host: due.host, generation: due.generation, due_at: due.due_at },
    };
    let mut headers = HeaderMap::new();
    headers.insert("Content-Type", CONTENT_TYPE);
    let body = envelope::encode(&event)?;
    Ok(context.publish_with_headers(prefix.of(Stream::Releases, &host), headers, body.into()).await?)
}
