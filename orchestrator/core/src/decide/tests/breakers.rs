//! Limits: what they hold back, when a breaker is tripped, and how it is reset.

use portcullis_schemas::events::{Breaker, Effect, Resets};

use super::*;

fn policy(limits: &str) -> String {
    format!(
        "version: 1\ncool_down_after_manual_release: 0s\nlimits:\n{limits}\nrules:\n  - {{ name: a, match: {{ rule.id: a }}, then: isolate }}\n  - {{ name: q, match: {{ rule.id: q }}, then: ask, ask_for: 10m, if_unanswered: isolate }}\n  - {{ name: rest, then: observe }}\n"
    )
}

/// So many hosts, `h1` and on, at two sites in turn.
fn world(limits: &str, hosts: usize) -> World {
    let mut world = World::under(&policy(limits));
    for host in 1..=hosts {
        let site = if host % 2 == 1 { "north" } else { "south" };
        world.says(Hello { labels: [("site".to_owned(), site.to_owned())].into(), ..hello(&format!("h{host}")) }, 1);
    }
    world
}

impl World {
    fn hit(&mut self, host: usize, second: i64) -> String {
        self.give(&seen(&format!("h{host}"), "a", &format!("d{host}-{second}"), second))
    }

    fn tripped(&self) -> Breaker {
        self.control.breakers().next().cloned().expect("a breaker is tripped")
    }

    fn releases(&mut self, host: usize, second: i64) {
        let name = format!("r{host}-{second}");
        self.give(&asked(Request { host: Some(id(&format!("h{host}"))), ..request(Action::Release) }, &name, second));
    }
}

#[test]
fn a_share_is_rounded_up_and_at_least_one_host() {
    for (share, hosts, most) in [("5%", 3, 1), ("34%", 3, 2), ("50%", 4, 2), ("100%", 2, 2)] {
        let mut world = world(&format!("  - {{ name: fleet, isolated: \"{share}\" }}"), hosts);
        let isolated = (1..=hosts).filter(|host| world.hit(*host, 10).starts_with("isolate")).count();
        assert_eq!(isolated, most, "{share} of {hosts}");
    }
}

#[test]
fn what_goes_beyond_a_limit_trips_its_breaker_and_asks_with_its_figures() {
    let mut world = world("  - { name: fleet, isolated: 2 }", 5);
    assert!(world.hit(1, 10).starts_with("isolate rule") && world.hit(2, 11).starts_with("isolate rule"));
    let decision = world.decide(&seen("h3", "a", "d3", 12)).decision.expect("a decision");
    let [Effect::BreakerTripped(breaker)] = decision.effects.as_slice() else { panic!("{:?}", decision.effects) };
    let breaker = breaker.clone();
    assert_eq!((breaker.limit.as_str(), &breaker.scope, breaker.since, breaker.resets), ("fleet", &None, at(12), Resets::Below));
    let figures =
        Reason::BlastRadius { limit: "fleet".into(), scope: None, isolated: 2, base: 5, most: 2, breaker: breaker.id.clone() };
    assert_eq!((decision.verdict, decision.reason), (Verdict::Ask, figures));
    assert_eq!(decision.ask.map(|ask| ask.breakers), Some(vec![breaker.id.clone()]));
    assert_eq!(world.hit(3, 12), "ask blast_radius !!ask !!breaker");
    let held = world.decide(&seen("h4", "a", "d4", 13)).decision.expect("a decision");
    let reason = Reason::Breaker { limit: "fleet".into(), scope: None, since: at(12), breaker: world.tripped().id };
    assert_eq!((held.reason, held.effects), (reason, vec![]));
    assert_eq!(world.hit(4, 13), "ask breaker !!ask");
    assert!(world.hit(1, 14).starts_with("isolate"), "a host that is isolated already is counted");
    // One answer for all that it held.
    let all = Request { host: None, breaker: Some(world.tripped().id), ..request(Action::Approve) };
    assert_eq!(world.give(&asked(all, "yes", 20)), "apply operator");
    assert_eq!(world.ends(20).iter().filter(|line| line.starts_with("isolate approved")).count(), 2);
    assert_eq!(world.fleet.counts().isolated, 4, "people go beyond a limit");
}

#[test]
fn a_breaker_is_reset_as_soon_as_its_limit_is_no_longer_reached() {
    let mut world = world("  - { name: fleet, isolated: 1 }", 3);
    world.hit(1, 10);
    world.hit(2, 11);
    world.releases(1, 20);
    let decision = world.decide(&seen("h3", "a", "d3", 21)).decision.expect("a decision");
    assert_eq!(decision.effects, [Effect::BreakerReset { breaker: world.tripped().id, by: None }]);
    assert!(world.hit(3, 21).ends_with("!!isolated !breaker"));
    assert_eq!(world.control.breakers().len(), 0);
}

#[test]
fn a_breaker_is_reset_without_a_detection_or_by_an_operator() {
    for (resets, early, late) in [("below", true, true), ("1h", false, true), ("manual", false, false)] {
        let mut world = world(&format!("  - {{ name: fleet, isolated: 1, resets: {resets} }}"), 3);
        world.hit(1, 10);
        world.hit(2, 11);
        let breaker = world.tripped();
        let over = |second| Input::BreakerOver(meta(InputKind::Time, "_breaker", "over", second), breaker.id.clone());
        assert_eq!(world.give(&over(12)), "nothing", "{resets}: the limit is still reached");
        world.releases(1, 20);
        assert_eq!(crate::testing::line(&world.decide(&over(21))) == "apply below_limit !breaker", early, "{resets}");
        assert_eq!(crate::testing::line(&world.decide(&over(11 + HOUR))) == "apply below_limit !breaker", late, "{resets}");
        let reset = |breaker: &str| Request { host: None, breaker: Some(breaker.into()), ..request(Action::Resume) };
        assert_eq!(world.give(&asked(reset("beef"), "r1", 30)), "refuse not_tripped");
        assert_eq!(world.give(&asked(reset(&breaker.id), "r2", 30)), "apply operator !breaker");
        assert!(world.hit(3, 31).starts_with("isolate rule"), "{resets}");
    }
}

#[test]
fn each_scope_has_its_own_count_and_breaker() {
    let mut world = world("  - { name: site, by: host.label.site, isolated: 1 }", 4);
    assert!(world.hit(1, 10).starts_with("isolate"));
    assert!(world.hit(2, 10).starts_with("isolate"), "the other site");
    assert!(world.hit(3, 10).starts_with("ask blast_radius"));
    assert_eq!(world.tripped().scope.as_deref(), Some("north"));
    // A host that moves is counted where it is.
    world.releases(2, 20);
    world.says(Hello { labels: [("site".to_owned(), "south".to_owned())].into(), ..hello("h1") }, 30);
    assert!(world.hit(4, 40).starts_with("ask blast_radius"));
}

#[test]
fn so_many_hosts_are_isolated_within_a_time() {
    let mut world = world("  - { name: pace, new: { count: 2, per: 10m } }", 6);
    world.hit(1, 10);
    world.hit(2, 100);
    world.releases(1, 110);
    let decision = world.decide(&seen("h3", "a", "d3", 120)).decision.expect("a decision");
    let per = Span::seconds(600);
    assert!(
        matches!(decision.reason, Reason::IsolationRate { isolated: 2, most: 2, per: found, .. } if found == per),
        "{decision:?}"
    );
    assert!(world.hit(3, 120).starts_with("ask isolation_rate"), "also where one of them is open again");
    assert!(world.hit(4, 609).starts_with("ask breaker"));
    assert!(world.hit(5, 610).starts_with("isolate rule"), "the first was isolated ten minutes ago");
}

#[test]
fn several_limits_are_all_named_and_the_stricter_answer_counts() {
    let limits = "  - { name: fleet, isolated: 1 }\n  - { name: pace, new: { count: 1, per: 1h }, then: refuse }";
    let mut world = world(limits, 3);
    world.hit(1, 10);
    let decision = world.decide(&seen("h2", "a", "d2", 20)).decision.expect("a decision");
    assert_eq!((decision.verdict, decision.ask, decision.effects.len()), (Verdict::Refuse, None, 2));
    assert!(matches!(
        (&decision.reason, decision.further.as_slice()),
        (Reason::BlastRadius { .. }, [Reason::IsolationRate { .. }])
    ));
    assert_eq!(world.hit(2, 20), "refuse blast_radius !!breaker !!breaker");
}

#[test]
fn manual_isolation_counts_and_is_never_held_back() {
    let mut world = world("  - { name: fleet, isolated: 1 }", 3);
    let isolate = |host: &str| Request { host: Some(id(host)), ..request(Action::Isolate) };
    assert!(world.give(&asked(isolate("h1"), "r1", 10)).ends_with("!!isolated"));
    assert!(world.give(&asked(isolate("h2"), "r2", 10)).ends_with("!!isolated !breaker"), "with a warning");
    assert_eq!(world.control.breakers().len(), 0);
    assert!(world.hit(3, 20).starts_with("ask blast_radius"));
}

#[test]
fn hosts_that_fell_silent_a_day_ago_are_no_part_of_a_share() {
    let mut world = world("  - { name: fleet, isolated: 50% }", 4);
    world.silence(HOUR);
    let day = 24 * HOUR + 3;
    for host in ["h1", "h2"] {
        world.says(Hello { instance: "new".into(), ..hello(host) }, day);
    }
    assert!(world.hit(1, day + 1).starts_with("isolate rule"));
    assert!(world.hit(2, day + 1).starts_with("ask blast_radius"), "one of the two that are there");
}

#[test]
fn silence_isolates_nobody_beyond_a_limit() {
    let mut world = world("  - { name: fleet, isolated: 1 }", 3);
    world.give(&seen("h1", "q", "d1", 10));
    world.hit(2, 20);
    assert_eq!(world.ends(610), ["observe unanswered !!breaker !answered"]);
}

#[test]
fn audit_trips_nothing() {
    let mut world = World::under(&format!("mode: audit\n{}", policy("  - { name: fleet, isolated: 1, then: refuse }")));
    world.says(hello("h2"), 1);
    world.isolate("r1", 5);
    let decision = world.decide(&seen("h2", "a", "d1", 10)).decision.expect("a decision");
    assert_eq!((decision.reason, decision.effects), (Reason::Audit { would: Verdict::Refuse }, vec![]));
    assert!(matches!(decision.further.as_slice(), [Reason::BlastRadius { .. }]));
}
