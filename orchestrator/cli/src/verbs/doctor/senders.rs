//! Senders: those that flood, those that are not understood, and what notices told of lately.

use std::collections::BTreeMap;

use portcullis_schemas::events::NoticeKind;

use super::{Finding, few};
use crate::client::{History, What};
use crate::site::Site;
use crate::words;

/// As many messages of one source are kept; more push out its own.
const KEPT: u64 = 100_000;
/// A source with this share of all detections, in percent, and as many of them, floods.
const SHARE: u64 = 50;
const MANY: u64 = 10_000;

pub fn judge(site: &Site) -> Vec<Finding> {
    vec![
        match &site.detections {
            Ok(counts) => flood(counts),
            Err(failure) => Finding::unread("sources", failure),
        },
        match &site.rejected {
            Ok(counts) => rejected(counts),
            Err(failure) => Finding::unread("rejected", failure),
        },
    ]
}

fn flood(counts: &BTreeMap<String, u64>) -> Finding {
    let all: u64 = counts.values().sum();
    let share = |count: u64| count.saturating_mul(100) / all.max(1);
    let floods = |(_, count): &(&String, &u64)| **count >= KEPT || **count >= MANY && share(**count) >= SHARE && counts.len() > 1;
    let mut flooding: Vec<_> = counts.iter().filter(floods).collect();
    flooding.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    if flooding.is_empty() {
        let sources = words::count(counts.len() as u64, "source", "sources");
        return Finding::ok("sources", format!("{all} detections by {sources}, none floods"));
    }
    let named: Vec<String> =
        flooding.iter().map(|(source, count)| format!("{source} ({count} detections, {} % of all)", share(**count))).collect();
    let remedy = "correct or stop the sender, or take its permission to publish away; it pushes out its own older detections alone, and others are decided in turn";
    Finding::warn("sources", format!("flooding: {}", few(&named)), remedy)
}

fn rejected(counts: &BTreeMap<String, u64>) -> Finding {
    if counts.is_empty() {
        return Finding::ok("rejected", "no message was rejected");
    }
    let mut most: Vec<_> = counts.iter().collect();
    most.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    let named: Vec<String> = most.iter().map(|(source, count)| format!("{source} ({count})")).collect();
    let remedy = "`portcullis tail --since 24h` shows why; correct the sender. Each is kept whole in REJECTED for 30 days";
    Finding::warn("rejected", format!("messages that could not be understood, by source: {}", few(&named)), remedy)
}

/// Of the last day.
pub fn notices(history: &History) -> Vec<Finding> {
    let of = |wanted: NoticeKind| -> Vec<String> {
        let notices = history.records.iter().filter_map(|record| match &record.what {
            What::Notice(event) if event.data.kind == wanted => Some(words::short(&event.data.text, 160)),
            _ => None,
        });
        // The newest first, each once.
        let mut texts: Vec<String> = Vec::new();
        notices.rev().for_each(|text| {
            if !texts.contains(&text) {
                texts.push(text)
            }
        });
        texts
    };
    let kinds = [
        (
            NoticeKind::Contested,
            "ids",
            "ids, names or addresses that two hosts claim",
            "give each host an id of its own (`--host-id`), and remove agents that were copied with an image",
        ),
        (
            NoticeKind::ImplausibleGeneration,
            "orders",
            "hosts report orders far above the log",
            "look at these hosts: nothing is ordered above such a claim",
        ),
        (
            NoticeKind::InputsLost,
            "inputs",
            "inputs were removed before they were read",
            "stop what floods, or raise max_bytes of the stream; the lost ones are to be looked for at their sender",
        ),
        (
            NoticeKind::ChainBroken,
            "chain",
            "another writer published in ORDERS",
            "find out by the broker's permissions who it is, and take it away",
        ),
    ];
    let mut found = Vec::new();
    for (kind, check, what, remedy) in kinds {
        let texts = of(kind);
        if !texts.is_empty() {
            found.push(Finding::warn(check, format!("in the last 24 h, {what}: {}", few(&texts)), remedy));
        }
    }
    found
}
