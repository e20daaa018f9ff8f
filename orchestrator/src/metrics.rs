//! Metrics for Prometheus, named in one place.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use portcullis_core::status::Status;
use portcullis_core::{Control, Fleet};
use portcullis_schemas::Timestamp;
use portcullis_schemas::events::{InputKind, Posture, Verdict};

const BUCKETS: [f64; 12] = [0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0];

/// Limits that were reached since the start.
static TRIPPED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

pub fn install() -> anyhow::Result<PrometheusHandle> {
    let handle =
        PrometheusBuilder::new().set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &BUCKETS)?.install_recorder()?;
    describe_counter!("portcullis_inputs_total", "Inputs taken, by kind");
    describe_counter!("portcullis_rejected_total", "Inputs that could not be understood, by reason");
    describe_counter!("portcullis_stray_messages_total", "Messages on subjects under the prefix that no stream takes");
    describe_counter!(
        "portcullis_foreign_messages_total",
        "Messages in ORDERS and records of terms that no orchestrator wrote: another writer publishes there"
    );
    counter!("portcullis_foreign_messages_total").increment(0);
    describe_counter!("portcullis_verdicts_total", "Decisions, by verdict");
    describe_counter!("portcullis_orders_total", "Orders stored, by posture");
    describe_counter!("portcullis_overtaken_total", "Publishes that lost their compare-and-set");
    describe_histogram!(
        "portcullis_order_latency_seconds",
        "From the time at which an input was stored to its order's being stored"
    );
    describe_gauge!("portcullis_pending_deadlines", "Isolations with a deadline to come");
    describe_gauge!("portcullis_tick_age_seconds", "Age of the scheduler's last tick");
    describe_gauge!("portcullis_leading", "1 while this orchestrator leads, 0 while it follows");
    gauge!("portcullis_leading").set(0.0);
    describe_counter!("portcullis_hellos_dropped_total", "Hellos that found no room; each host says another within 36 s");
    counter!("portcullis_hellos_dropped_total").increment(0);
    describe_gauge!("portcullis_hosts", "Hosts, by status");
    describe_gauge!("portcullis_waiting_detections", "Detections that wait for a host that is not known yet");
    describe_gauge!("portcullis_pending_approvals", "Approvals that wait for a person");
    describe_gauge!("portcullis_tripped_breakers", "Breakers that are tripped, by limit");
    describe_gauge!("portcullis_paused", "1 while automatic isolation is paused");
    describe_gauge!("portcullis_policy_loaded", "1 while a valid policy is in force, also where a later file was refused");
    describe_counter!("portcullis_policy_refused_total", "Policy files that were refused, at the start and when they changed");
    counter!("portcullis_policy_refused_total").increment(0);
    Ok(handle)
}

pub fn input(kind: InputKind) {
    counter!("portcullis_inputs_total", "kind" => label(kind)).increment(1);
}

pub fn rejected(reason: &'static str) {
    counter!("portcullis_rejected_total", "reason" => reason).increment(1);
}

pub fn foreign() {
    counter!("portcullis_foreign_messages_total").increment(1);
}

pub fn stray() {
    counter!("portcullis_stray_messages_total").increment(1);
}

pub fn verdict(verdict: Verdict) {
    counter!("portcullis_verdicts_total", "verdict" => verdict.as_str()).increment(1);
}

pub fn ordered(posture: Posture, latency: Duration) {
    counter!("portcullis_orders_total", "posture" => posture.as_str()).increment(1);
    histogram!("portcullis_order_latency_seconds").record(latency.as_secs_f64());
}

pub fn leading(leads: bool) {
    gauge!("portcullis_leading").set(f64::from(u8::from(leads)));
}

pub fn hello_dropped() {
    counter!("portcullis_hellos_dropped_total").increment(1);
}

pub fn overtaken() {
    counter!("portcullis_overtaken_total").increment(1);
}

pub fn policy(loaded: bool) {
    gauge!("portcullis_policy_loaded").set(if loaded { 1.0 } else { 0.0 });
}

pub fn policy_refused() {
    counter!("portcullis_policy_refused_total").increment(1);
}

pub fn scheduler(pending: usize, tick_age: Duration) {
    gauge!("portcullis_pending_deadlines").set(pending as f64);
    gauge!("portcullis_tick_age_seconds").set(tick_age.as_secs_f64());
}

pub fn waiting(detections: usize) {
    gauge!("portcullis_waiting_detections").set(detections as f64);
}

/// What operators hold back, and what waits for them.
pub fn control(control: &Control, now: Timestamp) {
    gauge!("portcullis_pending_approvals").set(control.asks().filter(|pending| pending.is_open(now)).count() as f64);
    gauge!("portcullis_paused").set(f64::from(u8::from(control.paused(now).is_some())));
    let mut tripped: BTreeMap<&str, u64> = BTreeMap::new();
    for breaker in control.breakers() {
        *tripped.entry(&breaker.limit).or_default() += 1;
    }
    // One that is reset is seen as 0.
    let mut known = TRIPPED.lock().unwrap_or_else(PoisonError::into_inner);
    known.extend(tripped.keys().map(|limit| (*limit).to_owned()));
    for limit in known.iter() {
        let count = tripped.get(limit.as_str()).copied().unwrap_or_default();
        gauge!("portcullis_tripped_breakers", "limit" => limit.clone()).set(count as f64);
    }
}

pub fn fleet(fleet: &Fleet, now: Timestamp) {
    let all = [
        Status::Open,
        Status::Isolating,
        Status::Isolated,
        Status::Releasing,
        Status::Drift,
        Status::Failed,
        Status::Unreachable,
    ];
    let mut counts = [0u64; 7];
    for (_, host) in fleet.hosts() {
        let status = host.status(now);
        if let Some(at) = all.iter().position(|known| *known == status) {
            counts[at] += 1;
        }
    }
    for (status, count) in all.iter().zip(counts) {
        gauge!("portcullis_hosts", "status" => status.as_str()).set(count as f64);
    }
}

fn label(kind: InputKind) -> &'static str {
    match kind {
        InputKind::Detection => "detection",
        InputKind::Request => "request",
        InputKind::ReleaseDue => "release_due",
        InputKind::State => "state",
        InputKind::Hello => "hello",
        InputKind::Stream => "stream",
        InputKind::Time => "time",
    }
}
