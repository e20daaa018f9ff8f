//! What is about hosts: groups, protection, limits, sources, exclusions by host.

use portcullis_schemas::events::Resets;
use portcullis_schemas::time::Span;

use super::*;

const FLEET: &str = r#"version: 1
groups:
  web: { match: { host.label.tier: web } }
  db: { match: { host.label.tier: db }, when: 'not(host.name.startsWith("test"))' }
  shaky: { when: 'host.roles[0] == "router"' }
exclusions:
  automatic: [dns-client]
  manual_default: [dns-server]
  by_host:
    - match: { host.group: db }
      automatic: [{ name: replication, direction: out, protocol: tcp, remote: 10.0.9.0/24, remote_ports: 5432 }]
    - match: { host.group: [web, db] }
      automatic: [dns-client, dhcp-client]
      manual: [dhcp-client]
protected:
  - { name: payment, match: { host.group: db, host.label.pci: "yes" } }
  - { name: unclear, when: 'host.label.n != "" && int(host.label.n) > 3' }
limits:
  - { name: fleet, isolated: { share: 5%, number: 20 }, new: { count: 20, per: 10m } }
  - { name: site, by: host.label.site, isolated: 2.5%, then: refuse, resets: 30m }
  - { name: groups, by: host.group, match: { host.group: [web, db] }, isolated: 1, resets: manual }
  - { name: roles, by: host.role, new: { count: 3, per: 1h } }
sources:
  "test-*": { may_isolate: false }
  test-good: { rate: { count: 10, per: 1m } }
rules:
  - { name: strict, match: { source: elastic, host.group: db }, then: isolate, exclusions: [] }
  - { name: shaky, match: { host.group: shaky, source: elastic }, then: isolate }
  - { name: cel, when: '"web" in host.groups && host.groups.size() == 1', then: isolate, on_deadline: ask }
  - { name: rest, then: observe }
"#;

fn fleet() -> Policy {
    Policy::parse(FLEET).unwrap_or_else(|errors| panic!("{errors:#?}"))
}

fn web() -> Known {
    Known::new("web1", &[("tier", "web"), ("site", "berlin")], &["dns-server"])
}

fn db() -> Known {
    Known::new("db1", &[("tier", "db"), ("pci", "yes")], &["x", "y", "x"])
}

fn bare_host() -> Known {
    Known::new("bare", &[], &[])
}

#[test]
fn groups_take_hosts_and_rules_name_them() {
    let policy = fleet();
    assert_eq!(policy.groups(), ["web", "db", "shaky"]);
    assert_eq!(policy.groups_of(&web().view()), ["web"]);
    assert_eq!(policy.groups_of(&db().view()), ["db"]);
    // One that cannot be told is none.
    assert_eq!(policy.groups_of(&bare_host().view()), [""; 0]);
    let judged = |host: &Known, source: &str| {
        let judgement = policy.judge(&Subject { detection: &detection(), source, host: host.view(), at: at() });
        (judgement.rule.map(str::to_owned), judgement.outcome)
    };
    let isolated = Outcome::Isolate { release_after: For::Span(Span::hours(8)) };
    assert_eq!(judged(&db(), "elastic"), (Some("strict".into()), isolated.clone()));
    let rule_of = |host: &Known, source: &str| judged(host, source).0.unwrap();
    assert_eq!(rule_of(&db(), "siem"), "rest");
    assert_eq!(rule_of(&web(), "siem"), "cel");
    // A group that cannot be told fails the rule that names it, and no other part of it is against it.
    let (rule, outcome) = judged(&bare_host(), "elastic");
    assert!(rule.as_deref() == Some("shaky") && matches!(outcome, Outcome::RuleError(_)), "{rule:?} {outcome:?}");
    // Where its sender is not meant, it does not matter what the group is; but an expression that walks all groups cannot pass over it.
    let (rule, outcome) = judged(&bare_host(), "siem");
    assert!(rule.as_deref() == Some("cel") && matches!(outcome, Outcome::RuleError(_)), "{rule:?} {outcome:?}");
}

#[test]
fn what_cannot_be_told_is_protected_and_limited() {
    let policy = fleet();
    assert_eq!(policy.protected(&db().view()), ["payment"]);
    assert_eq!(policy.protected(&web().view()), [""; 0]);
    assert_eq!(policy.protected(&Known::new("h", &[("n", "4")], &[]).view()), ["unclear"]);
    assert_eq!(policy.protected(&Known::new("h", &[("n", "3")], &[]).view()), [""; 0]);
    assert_eq!(policy.protected(&Known::new("h", &[("n", "many")], &[]).view()), ["unclear"]);
    let text = "limits:\n  - { name: a, when: 'int(host.label.n) > 3', isolated: 1 }\ngroups: { g: { when: 'int(host.label.n) > 3' } }\nprotected: [{ name: p, match: { host.group: g } }]";
    let policy = Policy::parse(&with_head(text)).unwrap();
    let takes = |n: &str| {
        let host = Known::new("h", &[("n", n)], &[]);
        (policy.limits()[0].takes(&host.view()), policy.protected(&host.view()).len())
    };
    assert_eq!([takes("4"), takes("3"), takes("x")], [(true, 1), (false, 0), (true, 1)]);
}

#[test]
fn limits_count_by_scope_share_and_number() {
    let policy = fleet();
    let [fleet, site, groups, roles] = policy.limits() else { panic!("four limits") };
    let most: Vec<_> = [0, 1, 20, 21, 40, 400, 401, 10_000].map(|base| fleet.most(base)).into_iter().flatten().collect();
    assert_eq!(most, [1, 1, 1, 2, 2, 20, 20, 20], "rounded up, at least one host, at most the number");
    assert_eq!([1, 40, 41, 80, 81].map(|base| site.most(base)), [1, 1, 2, 2, 3].map(Some), "a share with a fraction");
    assert_eq!(
        (fleet.window(), roles.window(), site.window()),
        (Some((20, Span::seconds(600))), Some((3, Span::hours(1))), None)
    );
    assert_eq!((groups.most(100), roles.most(100)), (Some(1), None));
    let refuse = (OnLimit::Refuse, Resets::After(Span::seconds(1800)));
    assert_eq!((fleet.then(), fleet.resets()), (OnLimit::Ask, Resets::Below));
    assert_eq!((site.then(), site.resets()), refuse);
    assert_eq!(groups.resets(), Resets::Manual);
    let (web, db, bare) = (web(), db(), bare_host());
    assert_eq!(fleet.scopes(&web.view()), [None]);
    let scopes = |limit: &Limit, host: &Known| limit.scopes(&host.view()).into_iter().flatten().collect::<Vec<_>>();
    assert_eq!((scopes(site, &web), scopes(site, &bare)), (vec!["berlin".to_owned()], vec![String::new()]));
    assert_eq!(scopes(roles, &db), ["x", "y"], "a host is in the count of each of its roles, once");
    assert_eq!(scopes(roles, &bare), [""]);
    assert_eq!(scopes(groups, &web), ["web"]);
    assert_eq!((groups.takes(&web.view()), groups.takes(&bare.view()), fleet.takes(&bare.view())), (true, false, true));
    let empty_label = Known::new("h", &[("site", "")], &[]);
    assert_eq!(scopes(site, &empty_label), [""], "an absent label is an empty one");
}

#[test]
fn sources_are_named_before_they_are_matched() {
    let policy = fleet();
    let terms = |token| policy.source_terms(token);
    assert_eq!(terms("elastic"), SourceTerms { may_isolate: true, rate: None });
    assert_eq!(terms("test-bad"), SourceTerms { may_isolate: false, rate: None });
    let rate = Some(Rate { count: 10, per: Span::seconds(60) });
    assert_eq!(terms("test-good"), SourceTerms { may_isolate: true, rate });
}

#[test]
fn exclusions_by_origin_rule_and_host() {
    let policy = fleet();
    let passing = |host: &Known, origin, rules: &[&str]| {
        let Passing { exclusions, left_out } = policy.exclusions(&host.view(), origin, rules);
        let mut names: Vec<String> = exclusions.into_iter().map(|exclusion| exclusion.name).collect();
        names.dedup();
        (names.join(" "), left_out.len())
    };
    let (automatic, manual) = (Origin::Automatic, Origin::Manual);
    assert_eq!(passing(&bare_host(), automatic, &["cel"]), ("dns-client".into(), 0));
    assert_eq!(passing(&bare_host(), manual, &["cel"]), ("dns-server".into(), 0));
    // What the list has already is not added.
    assert_eq!(passing(&web(), automatic, &["cel"]), ("dns-client dhcp-client".into(), 0));
    assert_eq!(passing(&web(), manual, &[]), ("dns-server dhcp-client".into(), 0));
    assert_eq!(passing(&db(), automatic, &["cel"]), ("dns-client replication dhcp-client".into(), 0));
    // A rule's own list is in place of the common one; of several rules the first in the policy speaks, however they came.
    assert_eq!(passing(&bare_host(), automatic, &["strict"]), (String::new(), 0));
    assert_eq!(passing(&bare_host(), automatic, &["cel", "strict"]), (String::new(), 0));
    assert_eq!(passing(&bare_host(), automatic, &["cel", "gone"]), ("dns-client".into(), 0));
    assert_eq!(passing(&bare_host(), automatic, &["gone"]), ("dns-client".into(), 0));
    assert_eq!(passing(&db(), automatic, &["strict"]), ("replication dns-client dhcp-client".into(), 0));
}

#[test]
fn what_a_host_does_not_take_together_is_left_out_and_said() {
    let many = |of: &str| {
        let one = |n| format!("{{ name: {of}{n}, direction: out, protocol: tcp, remote: 10.0.0.{n}, user: a }}");
        (0..40).map(one).collect::<Vec<_>>().join(", ")
    };
    let text = format!(
        "exclusions:\n  by_host:\n    - {{ match: {{ host.label.a: x }}, automatic: [{}] }}\n    - {{ match: {{ host.label.b: x }}, automatic: [{}] }}",
        many("a"),
        many("b")
    );
    let policy = Policy::parse(&with_head(&text)).unwrap();
    let warnings: Vec<String> = policy.warnings().iter().map(ToString::to_string).collect();
    assert!(warnings.len() == 1 && warnings[0].contains("80 exclusions are for a user or unit"), "{warnings:?}");
    let passing = |labels: &[(&str, &str)]| {
        let host = Known::new("h", labels, &[]);
        let passing = policy.exclusions(&host.view(), Origin::Automatic, &[]);
        (passing.exclusions.len() - default_exclusions().len(), passing.left_out)
    };
    assert_eq!(passing(&[("a", "x")]), (40, vec![]));
    assert_eq!(passing(&[("b", "x")]), (40, vec![]));
    let (added, left_out) = passing(&[("a", "x"), ("b", "x")]);
    assert!(added == 40 && left_out.len() == 1 && left_out[0].0 == 2, "{left_out:?}");
}
