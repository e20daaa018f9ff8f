//! The decision table, the survey of known hosts, and rules that can never match.

use super::*;

/// Each row in a line: its cells, and its answers in order.
fn lines(policy: &Policy) -> Vec<String> {
    let table = policy.table();
    let row = |row: &Row| {
        let answer = |answer: &Answer| {
            let mut words = format!("{} {}", answer.verdict, answer.rule);
            if let Some(held) = &answer.held_by {
                words += &format!(" [{held}]");
            }
            if answer.audit {
                words += " (audit)";
            }
            if !answer.only_if.is_empty() {
                words += &format!(" if {}", answer.only_if.join(" and "));
            }
            words
        };
        format!("{} -> {}", row.cells.join(" | "), row.answers.iter().map(answer).collect::<Vec<_>>().join("; "))
    };
    [table.axes.join(" | ")].into_iter().chain(table.rows.iter().map(row)).collect()
}

fn parsed(text: &str) -> Policy {
    Policy::parse(text).unwrap_or_else(|errors| panic!("{text}{errors:#?}"))
}

#[test]
fn severity_technique_source_and_role() {
    let policy = parsed(
        r#"version: 1
protected: [{ name: core, match: { host.role: router } }]
sources: { lab: { may_isolate: false } }
rules:
  - { name: worst, match: { severity: critical, source: [elastic, wazuh] }, then: isolate }
  - { name: high, match: { severity: ">= high", source: "wa*", technique: T1486 }, then: isolate, audit: true }
  - { name: any, match: { severity: ">= high" }, when: 'host.level == "full"', then: ask }
  - { name: lab, match: { source: lab, severity: medium }, then: isolate }
  - { name: rest, then: observe }
"#,
    );
    let table = lines(&policy);
    assert_eq!(table[0], "severity | technique | source | host.role");
    assert_eq!(
        table[1..],
        [
            "critical | T1486 | elastic, wazuh | router -> ask worst [protected, core]",
            "critical | T1486 | elastic, wazuh | other -> isolate worst",
            "critical | T1486 | wa* | router -> ask high [protected, core] (audit)",
            "critical | T1486 | wa* | other -> isolate high (audit)",
            "critical | T1486 | lab, other | any -> ask any if host.level == \"full\"; observe rest",
            "critical | other | elastic, wazuh | router -> ask worst [protected, core]",
            "critical | other | elastic, wazuh | other -> isolate worst",
            "critical | other | wa*, lab, other | any -> ask any if host.level == \"full\"; observe rest",
            "high | T1486 | elastic, lab, other | any -> ask any if host.level == \"full\"; observe rest",
            "high | T1486 | wazuh, wa* | router -> ask high [protected, core] (audit)",
            "high | T1486 | wazuh, wa* | other -> isolate high (audit)",
            "high | other | any | any -> ask any if host.level == \"full\"; observe rest",
            "medium | any | elastic, wazuh, wa*, other | any -> observe rest",
            "medium | any | lab | router -> ask lab [protected, core]",
            "medium | any | lab | other -> ask lab [source may not isolate]",
            "low, informational, unknown | any | any | any -> observe rest",
        ],
        "{table:#?}"
    );
}

#[test]
fn a_table_without_anything_to_tell_apart() {
    let policy = parsed(
        "version: 1\nrules:\n  - { name: c, match: { confidence: '> 50' }, then: ignore }\n  - { name: rest, then: observe }\n",
    );
    assert_eq!(lines(&policy), ["", " -> ignore c if confidence > 50; observe rest"]);
    assert!(policy.table().is_small());
}

#[test]
fn a_large_policy_has_a_table_that_can_be_read() {
    let rules: String = (0..200)
        .map(|n| format!("  - {{ name: r{n}, match: {{ severity: '>= high', source: s{n}, host.role: r{n}, technique: T{:04}, host.label.l{n}: x }}, then: isolate }}\n", 1000 + n))
        .collect();
    let table = parsed(&format!("version: 1\nrules:\n{rules}{REST}")).table();
    assert!(table.rows.len() <= 60 && table.axes == ["severity", "host.label.l0", "host.label.l1"], "{:?}", table.axes);
    let rules: String = (0..20)
        .map(|n| format!("  - {{ name: r{n}, match: {{ source: s{n}, host.role: r{n}, host.label.a: x{n} }}, then: isolate }}\n"))
        .collect();
    let table = parsed(&format!("version: 1\nrules:\n{rules}{REST}")).table();
    assert!(table.axes == ["source", "host.role"] && table.rows.len() == 41, "{:?} {}", table.axes, table.rows.len());
}

#[test]
fn known_hosts_that_a_policy_takes() {
    let policy = parsed(
        r#"version: 1
groups: { web: { match: { host.label.tier: web } }, odd: { when: 'int(host.label.n) > 3' } }
exclusions: { by_host: [{ match: { host.group: web }, automatic: [dns-client] }] }
protected: [{ name: p, match: { host.role: router } }, { name: odd, match: { host.group: odd } }]
limits: [{ name: fleet, isolated: 50% }, { name: tiers, by: host.label.tier, isolated: 1 }]
rules:
  - { name: a, match: { host.group: web, severity: high }, then: ignore }
  - { name: b, when: 'host.name == "x"', then: ignore }
  - { name: c, when: 'detection.product == host.name', then: ignore }
  - { name: d, when: 'true', then: ignore }
  - { name: rest, then: observe }
"#,
    );
    let hosts = [
        Known::new("web1", &[("tier", "web"), ("n", "1")], &[]),
        Known::new("web2", &[("tier", "web"), ("n", "5")], &["router"]),
        Known::new("db1", &[("tier", "db")], &[]),
    ];
    let views: Vec<HostView<'_>> = hosts.iter().map(Known::view).collect();
    let shown: Vec<String> = policy
        .survey(&views)
        .iter()
        .map(|taken| {
            let scope = |scope: &Scope| format!("{:?} {} of {}", scope.name.as_deref(), scope.most.unwrap_or(0), scope.hosts);
            let scopes: Vec<String> = taken.scopes.iter().map(scope).collect();
            format!("{} {}: {} {:?} {} {}", taken.what, taken.name, taken.hosts, taken.first, taken.unclear, scopes.join(", "))
        })
        .collect();
    assert_eq!(
        shown,
        [
            r#"group web: 2 ["web1", "web2"] 0 "#,
            r#"group odd: 1 ["web2"] 1 "#,
            r#"protected p: 1 ["web2"] 0 "#,
            r#"protected odd: 2 ["web2", "db1"] 1 "#,
            r#"limit fleet: 3 ["web1", "web2", "db1"] 0 None 2 of 3"#,
            r#"limit tiers: 3 ["web1", "web2", "db1"] 0 Some("web") 1 of 2, Some("db") 1 of 1"#,
            r#"by_host 1: 2 ["web1", "web2"] 0 "#,
            r#"rule a: 2 ["web1", "web2"] 0 "#,
            r#"rule b: 0 [] 0 "#,
        ]
    );
}

#[test]
fn rules_that_an_earlier_one_leaves_nothing() {
    for (earlier, later, never) in [
        ("match: { severity: '>= high' }", "match: { severity: critical }", true),
        ("match: { severity: '>= high' }", "match: { severity: '>= medium' }", false),
        ("match: { severity: '>= high' }", "match: { severity: '= high', source: x }, when: 'true'", true),
        ("match: { severity: '>= high', source: x }", "match: { severity: critical }", false),
        ("match: { confidence: '> 50' }", "match: { confidence: [80, '>= 90'] }", true),
        ("match: { confidence: '> 50' }", "match: { confidence: '>= 50' }", false),
        ("match: { technique: ['T1059*', T1486] }", "match: { technique: [T1059.001, t1486] }", true),
        ("match: { technique: 'T1059*' }", "match: { technique: 'T1059.*' }", true),
        ("match: { technique: 'T1059.*' }", "match: { technique: 'T1059*' }", false),
        ("match: { host.group: [g, h] }", "match: { host.group: g }", true),
        ("match: { host.group: g }", "match: { host.group: [g, h] }", false),
        ("match: { host.label.a: x }", "match: { host.label.b: x }", false),
        ("match: { source: x }, when: 'true'", "match: { source: x }", false),
        ("match: { source: x }, during: { days: mon, zone: UTC }", "match: { source: x }", false),
        ("match: { source: x }", "match: { source: x }, outside: { days: mon, zone: UTC }", true),
        ("match: { source: x }, threshold: { count: 2, per: 1h }", "match: { source: x }", true),
    ] {
        let policy = parsed(&format!(
            "version: 1\ngroups: {{ g: {{ match: {{ host.id: a }} }}, h: {{ match: {{ host.id: b }} }} }}\nrules:\n  - {{ name: a, {earlier}, then: isolate }}\n  - {{ name: b, {later}, then: isolate }}\n{REST}"
        ));
        let found: Vec<String> =
            policy.warnings().iter().map(ToString::to_string).filter(|w| w.contains("never match")).collect();
        assert_eq!(found.len(), usize::from(never), "{earlier} before {later}: {found:?}");
        if never {
            assert!(found[0].starts_with("line 5, column 13: rule \"b\" can never match: rule \"a\" on line 4"), "{found:?}");
        }
    }
}
