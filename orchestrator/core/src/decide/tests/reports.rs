//! What hosts say of themselves, and how little of it is followed.

use portcullis_schemas::events::{Hello, LocalActor, Posture, State, StateCause};

use crate::decide::{Input, Meta};
use crate::testing::{HOUR, World, at, detection, hello, id, meta, state};
use portcullis_schemas::events::InputKind;

const TRUSTS_NOBODY: &str = "{ version: 1, defaults: { trust_local: false }, rules: [{ name: a, match: { rule.id: a }, then: isolate }, { name: rest, then: observe }] }";

#[test]
fn a_state_that_confirms_its_order_is_no_news() {
    let mut world = World::new();
    world.detect("a", "d1", 0);
    for cause in [StateCause::Order, StateCause::Boot, StateCause::Check, StateCause::Tamper] {
        assert_eq!(world.state(state(1, Posture::Isolated, cause), 1), "nothing", "{cause:?}");
    }
    assert_eq!(world.state(state(0, Posture::Open, StateCause::Boot), 2), "nothing", "behind");
}

#[test]
fn a_local_release_ends_the_holds_where_the_policy_trusts_the_host() {
    let local = || State {
        by: Some(LocalActor {
            uid: 0,
            login_uid: Some(1_000),
            tty: Some("pts/1".into()),
            parent: Some("bash".into()),
            reason: None,
        }),
        ..state(1, Posture::Open, StateCause::Local)
    };
    let mut world = World::new();
    world.detect("a", "d1", 0);
    assert_eq!(world.state(local(), 60), "release opened_by_host #2 -> 2 open [] !released !!local_release");
    assert_eq!(world.state(local(), 61), "!!local_release");
    let before = Input::Detection(meta(InputKind::Detection, "edr", "d2", 59), detection("h1", "a", 59));
    assert_eq!(world.give(&before), "ignore superseded_by_release");

    let mut world = World::under(TRUSTS_NOBODY);
    world.detect("a", "d1", 0);
    let outcome = {
        world.fleet.take_state(local(), at(60));
        world.decide(&Input::State(meta(InputKind::State, "h1", "s", 60), local()))
    };
    assert_eq!(crate::testing::line(&outcome), "!!local_release");
    assert!(
        outcome.notices[0].text.ends_with("by uid 0 (login uid 1000, tty pts/1, parent bash)"),
        "{}",
        outcome.notices[0].text
    );
    let deadline = state(1, Posture::Open, StateCause::Deadline);
    assert_eq!(
        world.state(deadline, 9 * HOUR),
        "release opened_by_host #2 -> 2 open [] !released",
        "a deadline is trusted all the same"
    );
}

#[test]
fn an_open_host_that_says_so_by_order_ends_nothing() {
    let mut world = World::new();
    world.detect("a", "d1", 0);
    assert_eq!(world.state(state(1, Posture::Open, StateCause::Order), 1), "nothing");
    assert_eq!(world.state(state(1, Posture::Isolated, StateCause::Local), 1), "nothing", "it says local and is isolated");
}

#[test]
fn a_lost_posture_file_has_the_wanted_posture_ordered_anew_once() {
    let lost = || state(0, Posture::Isolated, StateCause::PostureLost);
    for (isolated, line, again) in [
        (
            true,
            "isolate posture_lost #2 -> 2 isolated [a*1 0..28800] till 28800 !!posture_lost",
            "isolate settled #2 !!posture_lost",
        ),
        (false, "release posture_lost #2 -> 2 open [] !!posture_lost", "release settled #2 !!posture_lost"),
    ] {
        let mut world = World::new();
        let _ = if isolated { world.detect("a", "d1", 0) } else { world.release("r1", 0) };
        assert_eq!(world.state(lost(), 60), line);
        // The decision may have been lost with its orchestrator: it is made again, and the order is not.
        assert_eq!(world.state(lost(), 60), again, "heard twice");
        // The host's acknowledgement was lost: the same event, stored once more.
        let stored_again = Input::State(Meta { at: at(90), ..meta(InputKind::State, "h1", "state-60", 60) }, lost());
        assert_eq!(world.give(&stored_again), again);
    }
    let line = "release posture_lost #1 -> 1 open [] !!posture_lost";
    assert_eq!(World::new().state(lost(), 60), line, "a host without an order gets one, and is open");
}

#[test]
fn an_agent_ahead_of_the_log_is_ordered_above_as_far_as_it_is_plausible() {
    let isolated = "isolated [a*1 0..28800] till 28800";
    for (what, ordered, ahead, posture, line) in [
        ("by one", true, 1, Posture::Isolated, format!("isolate agent_ahead #3 -> 3 {isolated}")),
        ("by a thousand", true, 1_000, Posture::Open, format!("isolate agent_ahead #1002 -> 1002 {isolated}")),
        ("by more", true, 1_001, Posture::Isolated, "!!implausible_generation".to_owned()),
        (
            "no log, isolated",
            false,
            3,
            Posture::Isolated,
            "isolate agent_ahead #4 -> 4 isolated [automatic*1 9..28809] till 28809 !!isolated".to_owned(),
        ),
        ("no log, open", false, 3, Posture::Open, "nothing".to_owned()),
        ("no log, by more", false, 1_001, Posture::Isolated, "!!implausible_generation".to_owned()),
    ] {
        for by_state in [true, false] {
            let mut world = World::new();
            if ordered {
                world.detect("a", "d1", 0);
            }
            let generation = u64::from(ordered) + ahead;
            let said = match by_state {
                true => world.state(state(generation, posture, StateCause::Check), 9),
                false => world.says(Hello { generation, posture, ..hello("h1") }, 9),
            };
            assert_eq!(said, line, "{what}, by state: {by_state}");
        }
    }
}

#[test]
fn a_reissue_that_was_heard_is_not_made_again() {
    let mut world = World::new();
    world.detect("a", "d1", 0);
    let ahead = || state(5, Posture::Isolated, StateCause::Check);
    assert!(world.state(ahead(), 9).starts_with("isolate agent_ahead #6"));
    assert_eq!(world.state(ahead(), 10), "nothing");
}

#[test]
fn a_recovered_isolation_ends_at_its_deadline_like_any_other() {
    let mut world = World::new();
    world.state(state(3, Posture::Isolated, StateCause::Boot), 0);
    assert_eq!(world.due(4, Some(std::time::Duration::ZERO), 8 * HOUR), "release deadline #5 -> 5 open [] !released");
}

#[test]
fn what_could_not_be_enforced_is_said() {
    let mut world = World::new();
    world.detect("a", "d1", 0);
    let failed = State { error: Some("nft: no".into()), ..state(1, Posture::Open, StateCause::Order) };
    assert_eq!(world.state(failed, 1), "!!drift");
}

#[test]
fn a_state_of_an_unknown_host_is_no_news() {
    let world = World::new();
    let state = State { host: id("h9"), ..state(4, Posture::Isolated, StateCause::Boot) };
    let outcome = world.decide(&Input::State(meta(InputKind::State, "h9", "s", 0), state));
    assert_eq!(crate::testing::line(&outcome), "nothing");
}

#[test]
fn ids_that_differ_in_case_are_not_taken() {
    let mut world = World::new();
    assert_eq!(world.says(hello("H1"), 5), "!!contested");
    assert!(world.fleet.host(&id("H1")).is_none());
    let state = State { host: id("H1"), ..state(4, Posture::Isolated, StateCause::Boot) };
    assert_eq!(world.state(state, 6), "nothing", "nor by a state event");
    assert!(world.fleet.host(&id("H1")).is_none());
    assert_eq!(world.says(hello("h1"), 7), "nothing", "the one that stood first is not pushed out");
}

#[test]
fn a_name_or_address_that_another_host_held_first_is_contested_once() {
    let mut world = World::new();
    let twin = || Hello { hostname: "H1.corp.example.".into(), ..hello("h2") };
    assert_eq!(world.says(twin(), 5), "!contested");
    assert_eq!(world.says(twin(), 6), "nothing");
}

#[test]
fn two_agents_with_one_host_id_are_an_alarm_and_a_restarted_one_is_none() {
    let mut world = World::new();
    let instance = |name: &str| Hello { instance: name.into(), ..hello("h1") };
    for (second, name) in [(10, "first"), (40, "first"), (70, "restarted")] {
        assert_eq!(world.says(instance(name), second), "nothing", "{name} at {second}");
    }
    assert_eq!(world.says(instance("cloned"), 80), "nothing", "a second one may be a restart");
    assert_eq!(world.says(instance("restarted"), 100), "!!contested", "the one before it lives");
}

#[test]
fn an_incident_with_a_line_break_isolates_all_the_same() {
    let world = World::new();
    let mut found = detection("h1", "a", 0);
    found.incident = Some("INC-7\n".into());
    let outcome = world.decide(&Input::Detection(meta(InputKind::Detection, "a", "d1", 0), found));
    assert_eq!(outcome.order.map(|order| order.incident).as_deref(), Some("INC-7"));
}
