//! What waits, by what it is found, and when it ends.

use portcullis_schemas::events::{Detection, Hello};

use super::*;
use crate::testing::{World, at, detection, hello, meta};
use crate::{Input, inventory};

const MINUTES: i64 = 60;

#[test]
fn a_detection_waits_by_its_id_names_and_addresses_until_the_decision_behind() {
    let mut desk = Desk::default();
    let claim = named(Some("H9"), Some("Web9.corp.example."), &["127.0.0.1", "::ffff:10.0.0.9"]);
    assert!(desk.detect(1, "edr", "d1", claim, 0));
    for (host, name, ip, finds) in [
        ("h9", "x", None, false),
        ("H9", "x", None, true),
        ("a", "web9", None, true),
        ("a", "web9.other.example", None, true),
        ("a", "web", None, false),
        ("a", "x", Some("10.0.0.9"), true),
        ("a", "x", Some("127.0.0.1"), false),
    ] {
        assert_eq!(desk.waiting.meaning(&known(host, name, ip)).contains(&1), finds, "{host} {name} {ip:?}");
    }
    assert_eq!((desk.waiting.next_end(), desk.waiting.recorded_from()), (Some(at(2 * MINUTES)), Some(101)));
    let mut decision = desk.decision(1, "edr", "d1", named(Some("H9"), None, &[]), 0);
    decision.reason = Reason::Rule;
    assert!(!desk.waiting.take(&decision, 150));
    assert!(desk.waiting.is_empty() && desk.waiting.recorded_from().is_none() && desk.waiting.by_value.is_empty());
    assert!(desk.waiting.by_key.is_empty() && desk.waiting.by_end.is_empty());
}

#[test]
fn nothing_is_waited_for_that_cannot_tell_hosts_apart() {
    assert_eq!(claim(&named(Some("no id!"), Some("localhost"), &["127.0.0.1", "fe80::1"])), None);
    let many: Vec<String> = (0..100).map(|n| format!("10.0.0.{n}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(claim(&named(None, None, &many)).map(|claim| claim.ips.len()), Some(MOST_ADDRESSES));
}

#[test]
fn the_same_detection_stored_again_waits_once_and_until_the_later_end() {
    let mut desk = Desk::default();
    desk.detect(1, "edr", "d1", named(Some("h9"), None, &[]), 0);
    assert!(!desk.detect(2, "edr", "d1", named(Some("h9"), None, &[]), 30));
    assert!(desk.detect(3, "siem", "d1", named(Some("h9"), None, &[]), 30), "another sender's is another one");
    assert_eq!(desk.waiting.meaning(&known("h9", "x", None)), [1, 3].into());
    assert_eq!(desk.ended(150), [(1, WaitEnd::TimedOut), (3, WaitEnd::TimedOut)]);
}

#[test]
fn a_wait_ends_at_its_time_and_once() {
    let mut desk = Desk::default();
    desk.detect(1, "edr", "d1", named(Some("h9"), None, &[]), 0);
    desk.detect(2, "edr", "d2", named(Some("h9"), None, &[]), 10);
    assert_eq!(desk.ended(119), []);
    desk.waiting.hold(1);
    assert_eq!(desk.ended(120), [], "it is in hand");
    desk.waiting.release(1);
    assert_eq!(desk.ended(120), [(1, WaitEnd::TimedOut)]);
    assert_eq!(desk.ended(129), []);
    assert!(desk.waiting.free(1).is_none() && desk.waiting.free(2).is_some());
    desk.waiting.release_all();
    assert_eq!(desk.ended(130), [(1, WaitEnd::TimedOut), (2, WaitEnd::TimedOut)]);
}

#[test]
fn a_retraction_ends_both_waits_whichever_came_first() {
    for retraction_first in [false, true] {
        let mut desk = Desk::default();
        let mut say = |sequence, id: &str, retracts: Option<&str>| {
            let data = Detection { retracts: retracts.map(str::to_owned), ..about(named(Some("h9"), None, &[]), 0) };
            desk.take(sequence, "edr", id, data, 0)
        };
        match retraction_first {
            false => (say(1, "d1", None), say(2, "d2", Some("d1"))),
            true => (say(1, "d2", Some("d1")), say(2, "d1", None)),
        };
        say(3, "d3", None);
        assert_eq!(desk.waiting.all_free(), [3]);
        assert!(!desk.waiting.is_live(1) && desk.waiting.contains(1));
        assert_eq!(desk.ended(1), [(1, WaitEnd::Retracted), (2, WaitEnd::Retracted)]);
        assert_eq!(desk.ended(1), []);
    }
    let mut desk = Desk::default();
    desk.detect(1, "edr", "d1", named(Some("h9"), None, &[]), 0);
    let data = Detection { retracts: Some("d1".into()), ..about(named(Some("h9"), None, &[]), 0) };
    desk.take(2, "siem", "d2", data, 0);
    assert_eq!(desk.ended(1), [], "by another sender");
    // One on a host that is known waits for nothing, and ends the wait all the same.
    let data = Detection { retracts: Some("d1".into()), ..detection("h1", "a", 0) };
    desk.take(3, "edr", "d3", data, 0);
    assert_eq!(desk.ended(1), [(1, WaitEnd::Retracted)]);
}

#[test]
fn of_too_many_those_that_end_first_are_pushed_out() {
    let mut desk = Desk::default();
    let first = desk.decision(1, "edr", "d", named(Some("h9"), None, &[]), 0);
    for n in 0..MOST as u64 + 2 {
        let mut one = first.clone();
        (one.sequence, one.input.id) = (Some(n + 1), format!("d{n}"));
        if let Reason::Unresolved { waits: Some(waits), .. } = &mut one.reason {
            waits.until = at(1_000 - n as i64 % 1_000);
        }
        desk.waiting.take(&one, n);
    }
    // 999 % 1,000 ends first, at 1 s: sequences 1,000, 2,000, …
    assert_eq!(desk.ended(0), [(1_000, WaitEnd::PushedOut), (2_000, WaitEnd::PushedOut)]);
    assert_eq!(desk.ended(0), []);
    for sequence in [1_000, 2_000] {
        desk.waiting.remove(sequence);
    }
    assert_eq!((desk.waiting.len(), desk.ended(1).len()), (MOST, 8));
}

struct Desk {
    world: World,
    waiting: Waiting,
}

impl Default for Desk {
    fn default() -> Self {
        Self { world: World::new(), waiting: Waiting::default() }
    }
}

impl Desk {
    fn detect(&mut self, sequence: u64, token: &str, id: &str, host: HostClaim, second: i64) -> bool {
        self.take(sequence, token, id, about(host, second), second)
    }

    /// Decides, and takes what was decided.
    fn take(&mut self, sequence: u64, token: &str, id: &str, data: Detection, second: i64) -> bool {
        let decision = self.decided(sequence, token, id, data, second);
        self.waiting.take(&decision, 100 + sequence)
    }

    fn decision(&self, sequence: u64, token: &str, id: &str, host: HostClaim, second: i64) -> Decision {
        self.decided(sequence, token, id, about(host, second), second)
    }

    fn decided(&self, sequence: u64, token: &str, id: &str, data: Detection, second: i64) -> Decision {
        let outcome = self.world.decide(&Input::Detection(meta(InputKind::Detection, token, id, second), data));
        Decision { sequence: Some(sequence), ..outcome.decision.expect("a decision") }
    }

    fn ended(&mut self, second: i64) -> Vec<(u64, WaitEnd)> {
        self.waiting.ended(at(second)).into_iter().map(|(sequence, _, end)| (sequence, end)).collect()
    }
}

fn about(host: HostClaim, second: i64) -> Detection {
    Detection { host, ..detection("h1", "a", second) }
}

fn named(id: Option<&str>, hostname: Option<&str>, ips: &[&str]) -> HostClaim {
    let ips = ips.iter().map(ToString::to_string).collect();
    HostClaim { id: id.map(str::to_owned), hostname: hostname.map(str::to_owned), ips }
}

fn known(host: &str, name: &str, ip: Option<&str>) -> Inventory {
    let hello = Hello { hostname: name.into(), ips: ip.into_iter().map(str::to_owned).collect(), ..hello(host) };
    inventory::of(None, &hello, at(0), false).expect("it is new")
}
