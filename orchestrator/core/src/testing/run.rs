//! Runs for the tests: what is stored in them, and how it is delivered.

use std::collections::VecDeque;

use portcullis_schemas::events::{Action, ExclusionChange, Posture, Request, State, StateCause};
use portcullis_schemas::{Stream, ids};
use proptest::prelude::*;

use super::site::{Fate, Site};
use super::{detection, request, state};
use crate::machine::{Event, Ticket};

/// What is stored in a run.
#[derive(Clone, Debug)]
pub enum Given {
    Detection(&'static str, &'static str),
    /// Retracts the detection so many before it.
    Retraction(&'static str, usize),
    Request(Action, &'static str),
    /// The host opened itself under its last order.
    Opened(&'static str),
    /// A host that is not known at first, and its heartbeat.
    Unknown(&'static str),
    /// Activates the text of this number; there is one more number than there are valid texts, and one more than there are texts.
    Activate(usize),
    Hello,
    /// What an operator says to all that is pending on a host.
    Answer(Action, &'static str, &'static str),
    /// The pause begins or ends.
    Pause(Action),
    /// Some minutes pass.
    Later,
}

const STRANGER: &str = "h3";
pub const HOSTS: [&str; 2] = ["h1", "h2"];

fn host() -> impl Strategy<Value = &'static str> {
    prop::sample::select(&HOSTS[..])
}

pub fn given() -> impl Strategy<Value = Given> {
    let rule = prop::sample::select(&["a", "a", "b", "noise", "rest", "dry", "broken"][..]);
    prop_oneof![
        6 => (rule, host()).prop_map(|(rule, host)| Given::Detection(rule, host)),
        1 => (host(), 1usize..5).prop_map(|(host, before)| Given::Retraction(host, before)),
        1 => host().prop_map(|host| Given::Request(Action::Isolate, host)),
        1 => host().prop_map(|host| Given::Request(Action::Extend, host)),
        1 => host().prop_map(|host| Given::Request(Action::Label, host)),
        1 => host().prop_map(|host| Given::Request(Action::Exclude, host)),
        2 => host().prop_map(|host| Given::Request(Action::Release, host)),
    ]
}

/// The same with what hosts say, and detections of one that is not known yet.
pub fn observed() -> impl Strategy<Value = Given> {
    let unknown = prop::sample::select(&["a", "rest"][..]).prop_map(Given::Unknown);
    let asks = (prop::sample::select(&["ask", "two", "many"][..]), host());
    let answer = (
        prop::sample::select(&[Action::Approve, Action::Approve, Action::Deny][..]),
        host(),
        prop::sample::select(&["ann", "bob"][..]),
    );
    let activate = (0..super::site::TEXTS.len() + 1).prop_map(Given::Activate);
    prop_oneof![
        8 => given(),
        1 => host().prop_map(Given::Opened),
        1 => unknown,
        1 => activate,
        1 => Just(Given::Hello),
        4 => asks.prop_map(|(rule, host)| Given::Detection(rule, host)),
        3 => answer.prop_map(|(action, host, operator)| Given::Answer(action, host, operator)),
        1 => prop::sample::select(&[Action::Pause, Action::Resume][..]).prop_map(Given::Pause),
        1 => Just(Given::Later),
    ]
}

pub fn put(site: &mut Site, number: usize, given: &Given) -> Option<Ticket> {
    let name = format!("i{number}");
    let second = site.next_second();
    let host = match given {
        Given::Unknown(_) => STRANGER,
        Given::Detection(_, host) => host,
        _ => "",
    };
    Some(match given {
        Given::Detection(rule, _) | Given::Unknown(rule) => {
            let data = detection(host, rule, second);
            Ticket { stream: Stream::Detections, sequence: site.put(Stream::Detections, "detection.edr", &name, data) }
        }
        Given::Retraction(host, before) => {
            let mut data = detection(host, "a", second);
            data.retracts = Some(format!("i{}", number.saturating_sub(*before)));
            Ticket { stream: Stream::Detections, sequence: site.put(Stream::Detections, "detection.edr", &name, data) }
        }
        Given::Request(action, host) => {
            let mut data = Request { host: host.parse().ok(), ..request(*action) };
            match action {
                Action::Extend => data.duration = "1h".parse().ok(),
                Action::Label => data.labels = [("asked".to_owned(), Some(name.clone()))].into(),
                Action::Exclude => {
                    let exclusion = serde_json::json!({
                        "name": name, "direction": "out", "protocol": "tcp", "remote": "any", "remote_ports": [number + 1],
                    });
                    let exclusions = serde_json::from_value(exclusion).into_iter().collect();
                    data.change = Some(ExclusionChange { exclusions, ..ExclusionChange::default() });
                }
                _ => {}
            }
            let subject = format!("request.ann.{host}");
            Ticket { stream: Stream::Requests, sequence: site.put(Stream::Requests, &subject, &name, data) }
        }
        Given::Activate(text) => {
            let text = super::site::TEXTS.get(*text).copied().unwrap_or("is not kept");
            let policy = Some(ids::sha256(text.as_bytes()));
            let data = Request { host: None, policy, ..request(Action::ActivatePolicy) };
            Ticket { stream: Stream::Requests, sequence: site.put(Stream::Requests, "request.ann._fleet", &name, data) }
        }
        Given::Hello => {
            site.hear(STRANGER);
            return None;
        }
        Given::Answer(action, host, operator) => {
            let data = Request { host: host.parse().ok(), operator: (*operator).into(), ..request(*action) };
            let subject = format!("request.{operator}.{host}");
            Ticket { stream: Stream::Requests, sequence: site.put(Stream::Requests, &subject, &name, data) }
        }
        Given::Pause(action) => {
            let data = Request { host: None, reason: Some("drill".into()), ..request(*action) };
            Ticket { stream: Stream::Requests, sequence: site.put(Stream::Requests, "request.ann._fleet", &name, data) }
        }
        Given::Later => {
            site.millis += 700_000;
            site.give(Event::Tick);
            return None;
        }
        Given::Opened(host) => {
            let id = host.parse().expect("the test's host id is valid");
            let generation = site.machine.fleet().host(&id).map_or(0, |host| host.ordered());
            let data = State { host: id, ..state(generation, Posture::Open, StateCause::Local) };
            let sequence = site.put(Stream::States, &format!("state.{host}"), &name, data);
            let message = site.stream(Stream::States)[&sequence].clone();
            site.give(Event::Logged(Stream::States, message));
            return None;
        }
    })
}

/// How a run is delivered; all lists begin anew at their end but the fates.
#[derive(Clone, Debug, Default)]
pub struct Play {
    /// The sizes of batches.
    pub sizes: Vec<usize>,
    /// Which inputs of a batch come again behind it.
    pub again: Vec<bool>,
    /// Behind which batches another process starts.
    pub starts: Vec<bool>,
    /// What becomes of the appends.
    pub fates: Vec<Fate>,
}

pub fn play(fates: impl Strategy<Value = Vec<Fate>>) -> impl Strategy<Value = Play> {
    let sizes = prop::collection::vec(1usize..9, 1..6);
    let (again, starts) = (prop::collection::vec(any::<bool>(), 1..8), prop::collection::vec(prop::bool::weighted(0.2), 1..8));
    (sizes, again, starts, fates).prop_map(|(sizes, again, starts, fates)| Play { sizes, again, starts, fates })
}

/// Appends of which some are not stored, and some not heard of.
pub fn fates() -> impl Strategy<Value = Vec<Fate>> {
    prop::collection::vec(prop_oneof![4 => Just(Fate::Stored), 1 => Just(Fate::Unheard), 1 => Just(Fate::Lost)], 0..24)
}

/// Stores everything, in batches that are delivered as they are full.
pub fn run(given: &[Given], play: &Play) -> Site {
    let mut site = Site::new(&HOSTS);
    site.fates.extend(&play.fates);
    let (mut sizes, mut starts) = (play.sizes.iter().cycle(), play.starts.iter().cycle());
    let mut waiting = VecDeque::new();
    let mut size = sizes.next().copied().unwrap_or(1);
    for (number, given) in given.iter().enumerate() {
        waiting.extend(put(&mut site, number, given));
        if waiting.len() >= size {
            deliver(&mut site, waiting.make_contiguous(), play, starts.next().copied().unwrap_or_default());
            waiting.clear();
            size = sizes.next().copied().unwrap_or(1);
        }
    }
    deliver(&mut site, waiting.make_contiguous(), play, false);
    site
}

/// Delivers a batch, and some of it again, perhaps to another process.
pub fn deliver(site: &mut Site, batch: &[Ticket], play: &Play, starts: bool) {
    site.deliver(batch);
    if starts {
        site.start(&format!("process at {}", site.millis));
    }
    let again = batch.iter().zip(play.again.iter().cycle()).filter(|(_, again)| **again);
    let again: Vec<Ticket> = again.map(|(input, _)| *input).collect();
    site.deliver(&again);
}
