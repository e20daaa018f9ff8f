//! Protected hosts, and sources that may not isolate.

use portcullis_schemas::events::OperatorWord;

use super::*;

const TEXT: &str = "
version: 1
cool_down_after_manual_release: 0s
protected:
  - { name: payment, match: { host.label.tier: payment } }
sources:
  siem: { may_isolate: false }
  edr: { rate: { count: 1, per: 10m } }
rules:
  - { name: a, match: { rule.id: a }, then: isolate }
  - { name: rest, then: observe }
";

fn labelled(host: &str, name: &str, value: &str) -> Hello {
    Hello { labels: [(name.to_owned(), value.to_owned())].into(), ..hello(host) }
}

#[test]
fn the_policy_protects_hosts_from_itself_and_from_a_person_alone() {
    let mut world = World::under(TEXT);
    world.says(labelled("h1", "tier", "payment"), 1);
    let decision = world.decide(&seen("h1", "a", "d1", 10)).decision.expect("a decision");
    assert_eq!((decision.verdict, decision.reason), (Verdict::Ask, Reason::Protected { as_what: "payment".into() }));
    assert_eq!(world.isolate("r1", 20), "ask protected !!ask");
}

#[test]
fn a_role_protects_once_it_was_reported_for_a_day_or_an_operator_confirms_it() {
    let day = 24 * HOUR;
    let claiming = || Hello { roles: vec!["dns-server".into()], ..hello("h1") };
    for (since, line) in [
        (day, "ask protected !!ask"),
        (day - 1, "isolate rule #1 -> 1 isolated [a*1 86400..115200] till 115200 !!isolated !!role_claimed"),
    ] {
        let mut world = World::under(TEXT);
        let mut inventory = world.fleet.inventory_for(&claiming(), at(0)).expect("it is news");
        inventory.roles_since = [("dns-server".to_owned(), at(day - since))].into();
        world.fleet.take_inventory(inventory, at(0));
        assert_eq!(world.detect("a", "d1", day), line);
    }
    let mut world = World::under(TEXT);
    world.says(Hello { roles: vec!["dns-server".into()], ..labelled("h1", "role.dns-server", "confirmed") }, 1);
    assert!(crate::testing::line(&world.decide(&seen("h1", "a", "d1", 10))).ends_with("!!role_claimed"), "by its own word");
    let mut inventory = world.fleet.host(&id("h1")).and_then(|host| host.inventory.as_deref()).cloned().expect("it is known");
    let labels = [("role.dns-server".to_owned(), Some("confirmed".to_owned()))].into();
    inventory.operator = Some(OperatorWord { labels, ..OperatorWord::default() });
    world.fleet.take_inventory(inventory, at(2));
    assert_eq!(world.detect("a", "d1", 10), "ask protected !!ask");
    let mut world = World::under(TEXT);
    world.says(Hello { roles: vec!["web-server".into()], ..hello("h1") }, 1);
    assert!(world.detect("a", "d1", 10).ends_with("!!isolated"), "no role that protects");
}

#[test]
fn a_source_that_may_not_isolate_asks_and_one_with_a_rate_isolates_so_many_hosts() {
    let mut world = World::under(TEXT);
    world.says(hello("h2"), 1);
    world.says(hello("h3"), 1);
    let by = |token: &str, host: &str, name: &str, second| {
        Input::Detection(meta(InputKind::Detection, token, name, second), detection(host, "a", second))
    };
    let decision = world.decide(&by("siem", "h1", "d1", 10)).decision.expect("a decision");
    assert_eq!((decision.verdict, decision.reason), (Verdict::Ask, Reason::SourceMayNotIsolate { source: "siem".into() }));
    assert!(world.give(&by("edr", "h1", "d1", 10)).starts_with("isolate rule"));
    let decision = world.decide(&by("edr", "h2", "d2", 20)).decision.expect("a decision");
    let reason = Reason::SourceRate { source: "edr".into(), isolated: 1, most: 1, per: Span::seconds(600) };
    assert_eq!((decision.verdict, decision.reason), (Verdict::Ask, reason));
    assert!(world.give(&by("other", "h3", "d3", 20)).starts_with("isolate rule"), "another source");
    assert!(world.give(&by("edr", "h2", "d4", 610)).starts_with("isolate rule"));
}
