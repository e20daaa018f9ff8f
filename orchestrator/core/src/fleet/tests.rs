//! The fold: the same log, the same fleet.

use portcullis_schemas::events::{Level, StateCause};

use super::*;
use crate::testing::{World, at, hello, id, state};

#[test]
fn an_older_order_changes_nothing_but_the_chain() {
    let mut world = World::new();
    world.detect("a", "d1", 0);
    let first = world.order().clone();
    world.release("r1", 1);
    assert_eq!(world.fleet.counts(), Counts { hosts: 1, isolated: 0 });
    for older in [first.clone(), Order { generation: 2, ..first }] {
        let _ = world.fleet.take_order(older, "f".repeat(64));
        assert_eq!((world.order().generation, world.order().posture), (2, Posture::Open));
        assert_eq!(world.fleet.counts(), Counts { hosts: 1, isolated: 0 });
        assert_eq!(world.fleet.prev(), "f".repeat(64));
    }
    world.fleet.take_link("0".repeat(64));
    assert_eq!(world.fleet.prev(), "0".repeat(64));
}

#[test]
fn isolated_hosts_are_counted_once() {
    let mut world = World::new();
    world.detect("a", "d1", 0);
    world.detect("b", "d2", 10);
    assert_eq!(world.fleet.counts(), Counts { hosts: 1, isolated: 1 });
}

#[test]
fn a_host_is_silent_after_a_while_and_said_so_once() {
    let mut world = World::new();
    assert_eq!(world.fleet.fallen_silent(at(100)), []);
    let fallen = world.fleet.fallen_silent(at(101));
    assert_eq!(fallen.iter().map(|inventory| inventory.silent_since).collect::<Vec<_>>(), [Some(at(0))]);
    world.fleet.forgive_silence(at(90));
    assert_eq!(world.fleet.fallen_silent(at(101)), [], "nobody could be heard until then");
    assert_eq!(world.fleet.fallen_silent(at(191)).len(), 1);
    for inventory in world.fleet.fallen_silent(at(191)) {
        world.fleet.take_inventory(inventory, at(90));
    }
    assert_eq!(world.fleet.fallen_silent(at(500)), [], "it is recorded");
    world.says(hello("h1"), 501);
    let known = world.fleet.host(&id("h1")).and_then(|host| host.inventory.as_deref());
    assert_eq!(known.map(|inventory| inventory.silent_since), Some(None), "its next word ends it");
}

#[test]
fn a_host_that_has_not_been_heard_for_40_seconds_shows_it() {
    let mut world = World::new();
    world.says(hello("h2"), 3);
    assert_eq!(world.fleet.late(at(36), 9), BTreeMap::new());
    assert_eq!(world.fleet.late(at(40), 9), [(id("h1"), at(0)), (id("h2"), at(3))].into());
    assert_eq!(world.fleet.late(at(40), 1), [(id("h1"), at(0))].into(), "the latest first");
    world.silence(102);
    assert_eq!(world.fleet.late(at(102), 9), [(id("h2"), at(3))].into(), "one that is unreachable is not late");
}

#[test]
fn a_host_that_becomes_unreachable_is_a_notice_and_an_urgent_one_while_it_is_isolated() {
    let mut world = World::new();
    let notice = |world: &World| world.fleet.fallen_silent(at(200)).first().map(|fallen| world.fleet.unreachable(fallen));
    let said = notice(&world).expect("it is silent");
    assert_eq!((said.kind, said.severity, said.incident), (NoticeKind::Silent, Severity::Medium, None));
    assert_eq!(said.text, "h1 is unreachable: no heartbeat since 2027-01-15 08:00:00 UTC");
    world.detect("a", "d1", 0);
    let said = notice(&world).expect("it is silent");
    assert_eq!((said.severity, said.incident.as_deref()), (Severity::High, Some("d1")));
    assert!(said.text.starts_with("h1 is unreachable while isolated: "), "{}", said.text);
}

#[test]
fn a_state_is_a_word_too() {
    let mut world = World::new();
    world.state(state(0, Posture::Open, StateCause::Check), 200);
    assert_eq!(world.fleet.fallen_silent(at(300)), []);
}

#[test]
fn a_claim_that_is_given_up_is_free() {
    let mut world = World::new();
    world.says(Hello { ips: vec!["10.0.0.1".into()], ..hello("h1") }, 1);
    assert_eq!(world.fleet.claimants("10.0.0.1"), [id("h1")]);
    world.says(Hello { ips: vec!["10.0.0.2".into()], ..hello("h1") }, 2);
    assert_eq!((world.fleet.claimants("10.0.0.1"), world.fleet.claimants("10.0.0.2")), (&[][..], &[id("h1")][..]));
}

#[test]
fn the_next_generation_is_above_the_hosts_last_words_as_far_as_they_are_plausible() {
    let mut world = World::new();
    for (by_inventory, by_state, next) in
        [(3, 0, 4), (2, 0, 3), (2, 5, 6), (1_001, 5, 6), (u64::MAX, 1_001, 1), (1_000, 7, 1_001), (0, 7, 8)]
    {
        let hello = Hello { generation: by_inventory, ..hello("h1") };
        world.fleet.take_inventory(
            Inventory { hello, claims: Vec::new(), silent_since: None, roles_since: Default::default(), operator: None },
            at(1),
        );
        world.fleet.take_state(state(by_state, Posture::Open, StateCause::Check), at(1));
        let generation = world.fleet.host(&id("h1")).map(Host::next_generation);
        assert_eq!(generation, Some(next), "{by_inventory} {by_state}");
    }
}

#[test]
fn the_first_spelling_of_an_id_stands() {
    let mut world = World::new();
    assert_eq!(world.fleet.spelled_otherwise(&id("H1")), Some(&id("h1")));
    assert_eq!(world.fleet.spelled_otherwise(&id("h1")), None);
    let other = State { host: id("H1"), level: Level::Full, ..state(1, Posture::Open, StateCause::Boot) };
    world.fleet.take_state(other, at(1));
    assert_eq!((world.fleet.hosts().count(), world.fleet.spelled_otherwise(&id("h1"))), (1, None));
}
