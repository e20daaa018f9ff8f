//! Tables: what stands on a host, what happens to it, and the whole of what follows.

use std::time::Duration;

use portcullis_schemas::events::{Action, InputKind, MAX_CAUSES, Posture, Reason, Request, StateCause};
use portcullis_schemas::exclusion::Exclusion;

use super::*;
use crate::decide::Input;
use crate::testing::{HOUR, World, asked, at, detection, id, key, meta, request, second, seen, state};

const FIRST: &str = "isolate rule #1 -> 1 isolated [a*1 0..28800] till 28800 !!isolated";

#[test]
fn the_first_cause_isolates() {
    let mut world = World::new();
    assert_eq!(world.detect("a", "d1", 0), FIRST);
    let order = world.order();
    assert_eq!((order.issued_at, order.expires_at, order.prev.as_str()), (at(0), Some(at(8 * HOUR)), NO_PREV));
    assert_eq!((&order.issued_by, order.incident.as_str()), (&key(InputKind::Detection, "edr", "d1"), "d1"));
    assert_eq!((order.holds[0].generation, order.released_at), (1, None));
}

#[test]
fn a_detection_of_the_same_rule_joins_its_hold_and_orders_only_where_the_deadline_moves() {
    for (what, second, line) in [
        ("a moment later the deadline hardly moves", 0, "isolate joined"),
        ("an hour later it moves", HOUR, "isolate rule #2 -> 2 isolated [a*2 0..32400] till 32400"),
        ("one that was stored before the hold began moves nothing", -5, "isolate joined"),
    ] {
        let mut world = World::new();
        assert_eq!(world.detect("a", "d1", 0), FIRST);
        assert_eq!(world.detect("a", "d2", second), line, "{what}");
    }
    let mut world = World::new();
    world.detect("a", "d1", 0);
    let outcome = world.decide(&seen("h1", "a", "d2", 0));
    assert_eq!(outcome.decision.map(|decision| decision.reason), Some(Reason::Joined { generation: 1, until: None }));
}

#[test]
fn joined_detections_make_at_most_one_order_a_second() {
    let mut world = World::new();
    let mut orders = 0;
    for tenth in 0..=50 {
        let mut input = seen("h1", "a", &format!("d{tenth}"), 0);
        if let Input::Detection(meta, _) = &mut input {
            meta.at = at(0) + TimeDelta::milliseconds(100 * tenth);
        }
        orders += usize::from(world.give(&input).contains("->"));
    }
    assert_eq!(orders, 6, "the first, and one for each of five seconds");
}

#[test]
fn a_detection_right_behind_another_rules_order_still_moves_the_deadline_by_hours() {
    let mut world = World::under(
        "{ version: 1, rules: [{ name: a, match: { rule.id: a }, then: isolate }, { name: s, match: { rule.id: s }, then: isolate, release_after: 1h }, \
         { name: rest, then: observe }] }",
    );
    assert_eq!(world.detect("a", "d1", 0), FIRST);
    assert_eq!(world.detect("s", "d2", 6 * HOUR), "isolate rule #2 -> 2 isolated [a*1 0..28800, s*1 21600..25200] till 28800");
    assert_eq!(world.detect("a", "d3", 6 * HOUR), "isolate rule #3 -> 3 isolated [a*2 0..50400, s*1 21600..25200] till 50400");
}

#[test]
fn a_hold_names_sixteen_causes_and_counts_the_rest() {
    let mut world = World::new();
    let mut last = String::new();
    for n in 0..20 {
        last = world.detect("a", &format!("d{n}"), n * 60);
    }
    assert_eq!(last, "isolate rule #20 -> 20 isolated [a*16+4 0..29940] till 29940");
    assert_eq!(world.order().holds[0].causes.len(), MAX_CAUSES);
    assert_eq!(world.detect("a", "d3", 7_000), "isolate settled #4", "one that is listed is not counted again");
}

#[test]
fn another_rule_adds_a_hold_and_the_latest_deadline_counts() {
    let mut world = World::new();
    world.detect("a", "d1", 0);
    let both = "isolate rule #2 -> 2 isolated [a*1 0..28800, b*1 10..86410] till 86410";
    assert_eq!(world.detect("b", "d2", 10), both);
    assert_eq!(world.detect("a", "d3", 20), "isolate joined", "the other hold is longer");
}

#[test]
fn thirty_two_holds_are_all() {
    let rules: Vec<String> = (0..40).map(|n| format!("{{ name: r{n}, match: {{ rule.id: r{n} }}, then: isolate }}")).collect();
    let mut world = World::under(&format!("{{ version: 1, rules: [{}, {{ name: rest, then: observe }}] }}", rules.join(", ")));
    for n in 0..32 {
        assert!(world.detect(&format!("r{n}"), &format!("d{n}"), n).contains("->"), "{n}");
    }
    assert_eq!(world.detect("r32", "d32", 32), "observe too_many_holds");
    assert!(world.detect("r31", "d33", 60).starts_with("isolate rule #33"), "a hold that lives is joined all the same");
    assert!(world.detect("r32", "d34", 8 * HOUR + 5).starts_with("isolate rule #34"), "those that expired make room");
    assert_eq!(world.order().holds.len(), 32 - 6 + 1);
}

#[test]
fn a_manual_isolation_beyond_thirty_two_holds_has_room_by_a_merge_that_is_said() {
    let rules: Vec<String> = (0..32).map(|n| format!("{{ name: r{n}, match: {{ rule.id: r{n} }}, then: isolate }}")).collect();
    let text = format!("{{ version: 1, rules: [{}, {{ name: rest, then: observe }}] }}", rules.join(", "));
    let mut world = World::under(&text);
    for n in 0..32 {
        world.detect(&format!("r{n}"), &format!("d{n}"), n);
    }
    let hours = |hours: i64| Request { duration: Some(format!("{hours}h").parse().expect("a span")), ..request(Action::Isolate) };
    world.give(&asked(hours(1), "m1", 60));
    let order = world.order();
    assert!(order.reason.contains("too many holds: that of rule r0 was merged into that of rule r1"), "{}", order.reason);
    assert_eq!((order.holds.len(), order.holds[0].causes.len()), (MAX_HOLDS, 2));
    assert_eq!((second(order.holds[0].since), order.holds[0].generation), (0, 2), "as old as the older, as new as the newer");
    assert_eq!(order.release_at, Some(at(8 * HOUR + 31)), "the host opens no earlier");
    world.give(&asked(hours(3), "m2", 61));
    world.give(&asked(Request { ticket: Some("T".into()), ..hours(2) }, "m3", 62));
    let order = world.order();
    assert!(order.reason.contains("that of ann was merged into that of ann"), "{}", order.reason);
    let manual: Vec<(usize, i64)> = order.holds.iter().filter(|hold| hold.rule.is_none()).map(ends).collect();
    assert_eq!((order.holds.len(), manual), (MAX_HOLDS, vec![(2, 61 + 3 * HOUR), (1, 62 + 2 * HOUR)]));

    fn ends(hold: &Hold) -> (usize, i64) {
        (hold.causes.len(), hold.until.map_or(0, second))
    }
}

#[test]
fn manual_exclusions_end_with_the_last_manual_hold() {
    let short = Request { duration: Some("1h".parse().expect("a span")), ..request(Action::Isolate) };
    let longer = Request { duration: Some("2h".parse().expect("a span")), ..request(Action::Isolate) };
    let mut world = two_profiles();
    world.detect("a", "d1", 0);
    world.give(&asked(short.clone(), "r1", 10));
    assert_eq!((names(&world), next_end(world.order())), (vec!["hand"], Some(at(HOUR + 10))));
    world.give(&asked(longer, "r2", 20));
    assert_eq!(next_end(world.order()), Some(at(2 * HOUR + 20)), "of two the last counts");
    let line = "isolate deadline #4 -> 4 isolated [a*1 0..28800] till 28800";
    assert_eq!(world.due(3, Some(Duration::ZERO), 2 * HOUR + 20), line);
    assert_eq!((names(&world), next_end(world.order())), (vec!["auto"], Some(at(8 * HOUR))));
    assert_eq!(world.due(4, Some(Duration::ZERO), 8 * HOUR), "release deadline #5 -> 5 open [] !released");

    // Where the manual hold is the last one, its end opens the host, and nothing comes before.
    let mut world = two_profiles();
    world.detect("a", "d1", 0);
    world.give(&asked(Request { duration: Some("9h".parse().expect("a span")), ..short.clone() }, "r1", 10));
    assert_eq!(next_end(world.order()), Some(at(9 * HOUR + 10)));
    world.give(&asked(Request { duration: Some("1h".parse().expect("a span")), ..request(Action::Extend) }, "r2", 20));
    assert_eq!((names(&world), next_end(world.order())), (vec!["hand"], Some(at(HOUR + 20))), "both end at once");

    let mut world = World::under(
        "{ version: 1, defaults: { max_isolation: never }, rules: [{ name: a, match: { rule.id: a }, then: isolate, release_after: never }, { name: rest, then: observe }] }",
    );
    world.detect("a", "d1", 0);
    world.give(&asked(short, "r1", 10));
    assert_eq!(next_end(world.order()), Some(at(HOUR + 10)), "also where nothing opens the host");
    assert_eq!(world.due(2, Some(Duration::ZERO), HOUR + 10), "isolate deadline #3 -> 3 isolated [a*1 0..never]");
    assert_eq!(next_end(world.order()), None);
}

#[test]
fn a_change_of_policy_changes_nothing_of_what_passes_on_an_isolated_host() {
    let mut world = two_profiles();
    world.detect("a", "d1", 0);
    world.policy = World::new().policy;
    world.detect("b", "d2", 60);
    assert_eq!(names(&world), ["auto"]);
    world.isolate("r1", 70);
    assert!(names(&world).contains(&"dhcp-client"), "a person isolates it under the policy of the day");
}

#[test]
fn max_isolation_bounds_a_joined_hold_from_its_beginning() {
    let mut world = World::under(
        "{ version: 1, defaults: { max_isolation: 10h }, rules: [{ name: a, match: { rule.id: a }, then: isolate }, { name: rest, then: observe }] }",
    );
    world.detect("a", "d1", 0);
    assert_eq!(world.detect("a", "d2", HOUR), "isolate rule #2 -> 2 isolated [a*2 0..32400] till 32400");
    assert_eq!(world.detect("a", "d3", 5 * HOUR), "isolate rule #3 -> 3 isolated [a*3 0..36000] till 36000");
    assert_eq!(world.detect("a", "d4", 9 * HOUR), "isolate joined");
}

#[test]
fn an_expired_hold_is_not_joined() {
    let mut world = World::new();
    world.detect("a", "d1", 0);
    world.detect("b", "d2", 0);
    let anew = "isolate rule #3 -> 3 isolated [b*1 0..86400, a*1 28800..57600] till 86400";
    assert_eq!(world.detect("a", "d3", 8 * HOUR), anew);
}

#[test]
fn a_person_and_a_rule_have_holds_of_their_own() {
    let mut world = World::new();
    world.detect("a", "d1", 0);
    let by_hand = "isolate operator #2 -> 2 isolated [a*1 0..28800, manual*1 60..28860] till 28860";
    assert_eq!(world.isolate("r1", 60), by_hand);
    assert!(world.order().reason.ends_with("; held by ann and rule a; manual exclusions apply"), "{}", world.order().reason);
    let again = "isolate operator #3 -> 3 isolated [a*1 0..28800, manual*1 60..28860, manual*1 120..28920] till 28920";
    assert_eq!(world.isolate("r2", 120), again, "a second request has its own");
    assert!(world.order().reason.ends_with("; held by ann and rule a; manual exclusions apply"), "{}", world.order().reason);
}

#[test]
fn manual_exclusions_count_before_automatic_ones_and_back() {
    let mut world = two_profiles();
    world.detect("a", "d1", 0);
    assert_eq!(names(&world), ["auto"]);
    let short = Request { duration: Some("1h".parse().expect("a span")), ..request(Action::Isolate) };
    world.give(&asked(short, "r1", 10));
    assert_eq!(names(&world), ["hand"]);
    world.detect("a", "d2", 20);
    assert_eq!(names(&world), ["hand"]);
    world.detect("b", "d3", 2 * HOUR);
    assert_eq!(names(&world), ["auto"], "the manual hold is over");
}

#[test]
fn a_request_brings_its_own_exclusions_for_as_long_as_a_person_holds_the_host() {
    let own = |names: &[&str]| Request {
        exclusions: Some(names.iter().map(|name| exclusion(name)).collect()),
        ..request(Action::Isolate)
    };
    let mut world = two_profiles();
    world.give(&asked(own(&["own"]), "r1", 0));
    assert_eq!(names(&world), ["own"]);
    world.detect("a", "d1", 1);
    assert_eq!(names(&world), ["own"]);
    world.isolate("r2", 60);
    assert_eq!(names(&world), ["own"]);
    let swapped =
        "isolate operator #4 -> 4 isolated [manual*1 0..28800, a*1 1..28801, manual*1 60..28860, manual*1 60..28860] till 28860";
    assert_eq!(
        world.give(&asked(own(&["other"]), "r3", 60)),
        swapped,
        "other exclusions are an order although nothing else moves"
    );
    assert_eq!(names(&world), ["other"]);
    world.release("r4", 70);
    world.isolate("r5", 80);
    assert_eq!(names(&world), ["hand"], "a release ends them");
}

#[test]
fn exclusions_of_a_manual_isolation_that_expired_do_not_come_back_with_the_next() {
    let mut world = two_profiles();
    world.detect("a", "d1", 0);
    let own = Request {
        exclusions: Some(vec![exclusion("own")]),
        duration: Some("1h".parse().expect("a span")),
        ..request(Action::Isolate)
    };
    world.give(&asked(own, "r1", 10));
    assert_eq!(names(&world), ["own"]);
    world.isolate("r2", 2 * HOUR);
    assert_eq!(names(&world), ["hand"]);
}

#[test]
fn a_release_ends_what_held_up_to_its_time_and_keeps_what_came_later() {
    for (what, second, line) in [
        ("before both", -1, "release operator #3 -> 3 isolated [a*1 0..28800, b*1 10..86410] till 86410"),
        ("at the time of the first", 0, "release operator #3 -> 3 isolated [b*1 10..86410] till 86410"),
        ("between them", 5, "release operator #3 -> 3 isolated [b*1 10..86410] till 86410"),
        ("after both", 11, "release operator #3 -> 3 open [] !released"),
    ] {
        let mut world = World::new();
        world.detect("a", "d1", 0);
        world.detect("b", "d2", 10);
        assert_eq!(world.release("r1", second), line, "{what}");
        assert_eq!(world.order().released_at, Some(at(second)), "{what}");
    }
}

#[test]
fn a_release_and_a_detection_end_alike_in_either_order_of_processing() {
    for (detected, released, isolated) in [(10, 5, true), (10, 10, false), (10, 15, false)] {
        let mut first = World::new();
        first.detect("a", "d1", detected);
        first.release("r1", released);
        let mut last = World::new();
        last.release("r1", released);
        let line = last.detect("a", "d1", detected);
        for world in [&first, &last] {
            assert_eq!(world.order().posture == Posture::Isolated, isolated, "detected {detected} released {released}");
        }
        assert_eq!(line == "ignore superseded_by_release", !isolated, "{line}");
        let by_hand = last.isolate("r2", detected);
        assert_eq!(by_hand == "ignore superseded_by_release", !isolated, "{by_hand}");
    }
}

#[test]
fn a_release_that_comes_late_keeps_a_hold_that_a_later_detection_joined() {
    let mut world = World::new();
    world.detect("a", "d1", 0);
    world.detect("a", "d2", 60);
    assert_eq!(world.release("r1", 30), "release operator #3 -> 3 isolated [a*1 60..28860] till 28860");
    assert_eq!(world.release("r2", 60), "release operator #4 -> 4 open [] !released");
}

#[test]
fn a_release_of_an_open_host_is_recorded_all_the_same() {
    let mut world = World::new();
    assert_eq!(world.release("r1", 10), "release already_open #1 -> 1 open []");
    assert_eq!(world.release("r2", 5), "release already_open #2 -> 2 open []");
    assert_eq!(world.order().released_at, Some(at(10)), "the later one counts");
}

#[test]
fn the_deadline_opens_only_where_its_generation_stands_and_its_time_has_come() {
    let none = Some(Duration::ZERO);
    for (what, generation, rest, line) in [
        ("due", 1, none, "release deadline #2 -> 2 open [] !released"),
        ("early", 1, Some(Duration::from_millis(1_500)), "again in 1500 ms"),
        ("the scheduler does not know it yet", 1, None, "again in 100 ms"),
        ("an older one", 0, none, "ignore stale_generation"),
        ("a later one", 2, none, "ignore stale_generation"),
    ] {
        let mut world = World::new();
        world.detect("a", "d1", 0);
        assert_eq!(world.due(generation, rest, 8 * HOUR), line, "{what}");
    }
    let mut world = World::new();
    world.release("r1", 0);
    assert_eq!(world.due(1, none, 1), "ignore stale_generation", "an open order has no deadline");
    let outcome = world.decide(&due_of("h9"));
    assert_eq!(crate::testing::line(&outcome), "ask unresolved", "an unknown host");
}

#[test]
fn a_deadline_that_never_comes_is_never_due() {
    let mut world = World::under(
        "{ version: 1, defaults: { max_isolation: never }, rules: [{ name: a, match: { rule.id: a }, then: isolate, release_after: never }, { name: rest, then: observe }] }",
    );
    assert_eq!(world.detect("a", "d1", 0), "isolate rule #1 -> 1 isolated [a*1 0..never] !!isolated");
    assert_eq!((world.order().release_at, world.order().expires_at), (None, None));
    assert_eq!(world.due(1, Some(Duration::ZERO), HOUR), "ignore stale_generation");
    assert_eq!(world.detect("a", "d2", HOUR), "isolate joined");
}

#[test]
fn a_retraction_ends_the_hold_of_its_detection_when_that_was_its_only_cause() {
    let mut world = World::new();
    world.detect("a", "d1", 0);
    assert_eq!(world.retract("d1", "x1", 5), "release retracted #2 -> 2 open [] !released");
    assert_eq!(world.retract("d1", "x2", 6), "ignore nothing_to_retract");
    assert_eq!(world.detect("a", "d1", 7), "isolate settled #1", "a late copy of it holds nothing");

    let mut world = World::new();
    world.detect("a", "d1", 0);
    world.detect("b", "d2", 0);
    assert_eq!(world.retract("d1", "x1", 5), "ignore retracted #3 -> 3 isolated [b*1 0..86400] till 86400");
}

#[test]
fn a_retraction_right_behind_its_detection_is_not_put_off_for_ever() {
    for second in [-1, 0] {
        let mut world = World::new();
        world.detect("a", "d1", 0);
        assert_eq!(world.retract("d1", "x1", second), "release retracted #2 -> 2 open [] !released");
    }
}

#[test]
fn a_hold_with_other_causes_lives_on_without_the_one_that_was_retracted() {
    let mut world = World::new();
    world.detect("a", "d1", 0);
    world.detect("a", "d2", 60);
    assert_eq!(world.retract("d1", "x1", 70), "ignore retracted #3 -> 3 isolated [a*1 0..28860] till 28860");
    assert_eq!(world.order().holds[0].causes[0].id, "d2");
    assert_eq!(world.retract("d1", "x2", 71), "ignore nothing_to_retract");
    assert_eq!(world.retract("d2", "x3", 80), "release retracted #4 -> 4 open [] !released");
    let mut world = World::new();
    for n in 0..18 {
        world.detect("a", &format!("d{n}"), n * 60);
    }
    for n in 0..16 {
        world.retract(&format!("d{n}"), &format!("x{n}"), 2_000 + n);
    }
    assert!(world.order().holds[0].causes.is_empty(), "two are left that are counted only");
    assert_eq!((world.order().posture, world.order().holds[0].more), (Posture::Isolated, Some(2)));
    assert_eq!(world.retract("d17", "y1", 3_000), "ignore nothing_to_retract", "which they are is not known any more");
}

#[test]
fn a_cause_that_joined_without_an_order_holds_on_and_is_retracted_like_any_other() {
    let mut world = World::new();
    world.detect("a", "d1", 0);
    assert_eq!(world.detect("a", "d2", 0), "isolate joined");
    assert_eq!(world.retract("d1", "x1", 5), "ignore retracted #2 -> 2 isolated [a*1 0..28800] till 28800", "the other holds on");
    assert_eq!(world.order().holds[0].causes[0].id, "d2");
    assert_eq!(world.retract("d2", "x2", 6), "release retracted #3 -> 3 open [] !released");

    let mut world = World::new();
    world.detect("a", "d1", 0);
    world.detect("a", "d2", 0);
    assert_eq!(world.retract("d2", "x1", 5), "ignore retracted #2 -> 2 isolated [a*1 0..28800] till 28800");
    assert_eq!(world.detect("a", "d2", 7), "ignore settled", "a late copy of it holds nothing");
    assert_eq!(world.retract("d2", "x2", 8), "ignore nothing_to_retract");
    assert_eq!(world.retract("d1", "x3", 9), "release retracted #3 -> 3 open [] !released");
    world.detect("a", "d3", 20);
    assert_eq!(
        world.retract("d3", "x4", 21),
        "release retracted #5 -> 5 open [] !released",
        "nothing is left of what joined before"
    );
}

#[test]
fn a_joined_cause_holds_for_as_long_as_it_asks_also_where_no_order_says_so() {
    let mut world = World::new();
    world.detect("a", "d1", 0);
    world.detect("b", "d2", 0);
    let joined = world.decide(&seen("h1", "a", "d3", HOUR)).decision.map(|decision| decision.reason);
    assert_eq!(joined, Some(Reason::Joined { generation: 2, until: Some(at(9 * HOUR)) }), "the other hold is longer");
    world.detect("a", "d3", HOUR);
    let rest = "ignore retracted #3 -> 3 isolated [a*2 0..32400] till 32400";
    assert_eq!(world.retract("d2", "x1", 2 * HOUR), rest);
}

#[test]
fn a_release_that_comes_late_keeps_what_joined_after_it_without_an_order() {
    let mut world = World::new();
    world.detect("a", "d1", 0);
    world.detect("b", "d2", 0);
    assert_eq!(world.detect("a", "d3", 60), "isolate joined");
    assert_eq!(world.release("r1", 30), "release operator #3 -> 3 isolated [a*1 60..28860] till 28860");
    assert_eq!(world.retract("d3", "x1", 90), "release retracted #4 -> 4 open [] !released");
}

#[test]
fn of_too_many_joined_causes_none_is_taken_for_the_last() {
    let mut world = World::new();
    world.detect("a", "d0", 0);
    for n in 1..=joined::MOST + 1 {
        world.detect("a", &format!("d{n}"), 0);
    }
    for n in 0..=joined::MOST + 1 {
        world.retract(&format!("d{n}"), &format!("x{n}"), 5);
    }
    assert_eq!(world.order().posture, Posture::Isolated, "one is forgotten, and whether it was retracted cannot be told");
}

#[test]
fn a_retraction_asks_where_a_person_holds_the_host_as_well() {
    let mut world = World::new();
    world.detect("a", "d1", 0);
    world.isolate("r1", 60);
    assert_eq!(world.retract("d1", "x1", 70), "ask retraction_not_alone", "by hand as well");
}

#[test]
fn a_retraction_of_an_unseen_detection_settles_it() {
    let mut world = World::new();
    assert_eq!(world.retract("d1", "x1", 0), "ignore nothing_to_retract #1 -> 1 open []");
    assert_eq!(world.detect("a", "d1", 5), "ignore settled");
    assert_eq!(world.retract("d1", "x2", 9), "ignore nothing_to_retract", "it is settled already");
    let mut world = two_profiles();
    world.detect("a", "d1", 0);
    let kept = "ignore nothing_to_retract #2 -> 2 isolated [a*1 0..28800] till 28800";
    assert_eq!(world.retract("d2", "x1", 5), kept, "an isolated host stays as it is");
    assert_eq!(world.detect("a", "d2", HOUR), "ignore settled");
}

#[test]
fn a_detection_that_retracts_itself_is_settled_by_its_order() {
    let mut world = World::new();
    assert_eq!(world.retract("x1", "x1", 0), "ignore nothing_to_retract #1 -> 1 open []");
    assert_eq!(world.order().settled.len(), 1);
    assert_eq!(world.order().settled[0].generation, Some(1));
}

#[test]
fn a_retraction_by_another_token_or_source_ends_nothing() {
    let mut world = World::new();
    world.detect("a", "d1", 0);
    for (token, source) in [("siem", "/edr"), ("edr", "/siem")] {
        let mut meta = meta(InputKind::Detection, token, "x1", 60);
        meta.input.source = source.into();
        let data = portcullis_schemas::events::Detection { retracts: Some("d1".into()), ..detection("h1", "a", 60) };
        let line = world.give(&Input::Detection(meta, data));
        assert!(line.starts_with("ignore nothing_to_retract") && line.ends_with("isolated [a*1 0..28800] till 28800"), "{line}");
    }
}

#[test]
fn what_the_host_opened_itself_is_over_and_what_came_after_stays() {
    let deadline = |generation| state(generation, Posture::Open, StateCause::Deadline);
    let mut world = World::new();
    world.detect("a", "d1", 0);
    assert_eq!(world.state(deadline(1), 60), "release opened_by_host #2 -> 2 open [] !released");
    assert_eq!(world.order().released_at, Some(at(60)));
    assert_eq!(world.state(deadline(1), 61), "nothing", "heard twice");

    let mut world = World::new();
    world.detect("a", "d1", 0);
    world.detect("b", "d2", 10);
    let rest = "release opened_by_host #3 -> 3 isolated [b*1 10..86410] till 86410";
    assert_eq!(world.state(deadline(1), 60), rest, "a hold of the next generation lives");
    assert_eq!(world.state(deadline(1), 61), "nothing");
}

#[test]
fn a_reissue_changes_nothing_but_the_number() {
    let mut world = two_profiles();
    let own = Request { exclusions: Some(vec![exclusion("own")]), ticket: Some("T-1".into()), ..request(Action::Isolate) };
    world.give(&asked(own, "r1", 0));
    let before = world.order().clone();
    assert_eq!(
        world.state(state(4, Posture::Isolated, StateCause::Order), 60),
        "isolate agent_ahead #5 -> 5 isolated [manual*1 0..28800] till 28800"
    );
    let after = world.order();
    assert_eq!((&after.holds, &after.exclusions, &after.ticket), (&before.holds, &before.exclusions, &before.ticket));
    assert_eq!((&after.incident, second(after.issued_at)), (&before.incident, 60));
}

fn two_profiles() -> World {
    World::under(
        "
version: 1
exclusions:
  automatic: [{ name: auto, direction: out, protocol: tcp, remote: any, remote_ports: 1 }]
  manual_default: [{ name: hand, direction: out, protocol: tcp, remote: any, remote_ports: 2 }]
rules:
  - { name: a, match: { rule.id: a }, then: isolate }
  - { name: b, match: { rule.id: b }, then: isolate, release_after: 24h }
  - { name: rest, then: observe }
",
    )
}

fn exclusion(name: &str) -> Exclusion {
    let text = serde_json::json!({ "name": name, "direction": "out", "protocol": "tcp", "remote": "any" });
    serde_json::from_value(text).expect("the test's exclusion is valid")
}

fn names(world: &World) -> Vec<&str> {
    world.order().exclusions.iter().map(|exclusion| exclusion.name.as_str()).collect()
}

fn due_of(host: &str) -> Input {
    let due = portcullis_schemas::events::ReleaseDue { host: id(host), generation: 1, due_at: at(0) };
    Input::ReleaseDue { meta: meta(InputKind::ReleaseDue, host, "due", 0), due, rest: Some(Duration::ZERO) }
}
