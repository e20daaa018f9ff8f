use std::collections::BTreeMap;

use bytes::Bytes;
use portcullis_schemas::Stream;
use portcullis_schemas::events::Action;
use proptest::prelude::*;

use super::{Problem, replay};
use crate::machine::Message;
use crate::testing::run::{Given, Play, fates, observed, play, run};
use crate::testing::site::Site;

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn every_run_is_replayed_to_the_same_bytes(given in prop::collection::vec(observed(), 1..24), play in play(fates())) {
        let site = run(&given, &play);
        let done = replay(&site.recording());
        let differences: Vec<String> = done.differences.iter().map(ToString::to_string).collect();
        prop_assert!(differences.is_empty(), "{}", differences.join("\n"));
        let orders = site.orders().len() as u64;
        prop_assert_eq!(done.orders + done.unanswered_orders, orders);
        prop_assert!(done.inputs >= site.decisions().len() as u64);
    }
}

/// A run in which all that can happen does.
fn recorded() -> Site {
    let given = [
        Given::Detection("a", "h1"),
        Given::Detection("noise", "h2"),
        Given::Detection("b", "h1"),
        Given::Request(Action::Isolate, "h2"),
        Given::Request(Action::Release, "h1"),
        Given::Opened("h2"),
    ];
    run(&given, &Play { sizes: vec![2], again: vec![true], starts: vec![false, true], ..Play::default() })
}

#[test]
fn what_was_changed_or_removed_is_a_difference() {
    let whole = recorded().recording();
    assert_eq!(replay(&whole).differences, []);
    assert_eq!(replay(&whole).terms, 2);

    let change = |stream: Stream, sequence: u64, from: &str, to: &str| {
        let mut streams = whole.streams.clone();
        let message = streams.get_mut(&stream).and_then(|messages| messages.get_mut(&sequence)).expect("it is recorded");
        let text = String::from_utf8(message.body.to_vec()).expect("an event is text");
        assert!(text.contains(from), "{text}");
        message.body = Bytes::from(text.replacen(from, to, 1));
        found(&whole, streams)
    };
    // A cause that was not, an end that was moved, an answer that is another one, a name that was given up.
    assert_eq!(change(Stream::Detections, 1, "\"a\"", "\"b\"").first(), Some(&(Stream::Orders, 2)));
    let last = last_of(&whole.streams[&Stream::Orders], "order.h1");
    assert_eq!(change(Stream::Orders, last, "\"open\"", "\"isolated\"").first(), Some(&(Stream::Orders, last)));
    let answer = last_of(&whole.streams[&Stream::Decisions], "decision._pages");
    assert_eq!(change(Stream::Decisions, answer, "\"isolate\"", "\"observe\"").first(), Some(&(Stream::Decisions, answer)));
    assert!(!change(Stream::Inventory, 1, "\"full\"", "\"none\"").is_empty());

    for (stream, sequence) in [(Stream::Detections, 1), (Stream::Inventory, 1), (Stream::Orders, 2), (Stream::States, 1)] {
        let mut streams = whole.streams.clone();
        streams.get_mut(&stream).and_then(|messages| messages.remove(&sequence)).expect("it is recorded");
        assert!(!found(&whole, streams).is_empty(), "{stream:?} {sequence}");
    }
    let without_text = super::Recording { policies: BTreeMap::new(), ..recorded().recording() };
    assert!(replay(&without_text).differences.iter().any(|one| matches!(one.problem, Problem::NoText(_))));
}

fn found(whole: &super::Recording, streams: BTreeMap<Stream, BTreeMap<u64, Message>>) -> Vec<(Stream, u64)> {
    let recording = super::Recording { prefix: whole.prefix.clone(), streams, policies: whole.policies.clone() };
    replay(&recording).differences.iter().map(|one| (one.stream, one.sequence)).collect()
}

fn last_of(messages: &BTreeMap<u64, Message>, subject: &str) -> u64 {
    let of = messages.values().filter(|message| message.subject.ends_with(subject));
    of.last().expect("there is one").sequence
}
