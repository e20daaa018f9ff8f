//! Exclusions written out: what each condition takes, how it is printed back, and what is refused where.

use super::*;

fn automatic(entries: &str) -> String {
    with_head(&format!("exclusions: {{ automatic: [{entries}] }}"))
}

#[test]
fn every_condition_is_taken_and_printed_back() {
    for (conditions, printed) in [
        ("direction: out, protocol: tcp, remote: 10.0.0.1, remote_ports: 443", "tcp out to 10.0.0.1/32 port 443"),
        (
            "direction: in, protocol: 6, remote: 10.0.0.1, local_ports: [22, 80-90]",
            "tcp in from 10.0.0.1/32 to own port 22, 80-90",
        ),
        ("direction: out, protocol: sctp, remote: 10.0.0.1, remote_ports: 5000", "sctp out to 10.0.0.1/32 port 5000"),
        ("direction: in, protocol: gre, remote: 10.0.0.0/24", "gre in from 10.0.0.0/24"),
        ("direction: out, protocol: 253, remote: 10.0.0.1", "protocol 253 out to 10.0.0.1/32"),
        (
            "direction: out, protocol: any, remote: [10.0.0.1, \"2001:db8::/32\"]",
            "any protocol out to 10.0.0.1/32, 2001:db8::/32",
        ),
        ("direction: out, protocol: icmp, remote: any", "icmp out to anybody"),
        (
            "direction: in, protocol: icmp, remote: any, icmp_types: [echo-request, node-information-query]",
            "icmp in from anybody, echo-request, node-information-query only",
        ),
        (
            "direction: out, protocol: tcp, remote: [siem.example.org, _x.Example.org], remote_ports: 443",
            "tcp out to siem.example.org, _x.Example.org by name port 443",
        ),
        (
            "direction: out, protocol: tcp, remote: $names, remote_ports: 443",
            "tcp out to a.example.org, b.example.org by name port 443",
        ),
        ("direction: out, protocol: udp, remote: [$nets, 10.0.3.0/24], remote_ports: 53", "udp out to 10.0.2.0/23 port 53"),
        (
            "direction: out, protocol: tcp, remote: 10.0.0.1, user: backup, unit: /system.slice/b.service",
            "tcp out to 10.0.0.1/32, user backup only, unit /system.slice/b.service only",
        ),
        (
            "direction: in, protocol: udp, remote: any, local_ports: 53, user: 0",
            "udp in from anybody to own port 53, user 0 only",
        ),
        (
            "direction: out, protocol: udp, remote: any, remote_ports: 123, unit: chrony.service",
            "udp out to anybody port 123, unit chrony.service only",
        ),
        (
            "direction: out, protocol: tcp, remote: any, remote_ports: [80, 443]",
            "tcp out to anybody port 80, 443, 169.254.169.254 included: the metadata service of a cloud",
        ),
        (
            "direction: out, protocol: any, remote: \"fd00:ec2::/32\"",
            "any protocol out to fd00:ec2::/32, fd00:ec2::254 included: the metadata service of a cloud",
        ),
        ("direction: out, protocol: tcp, remote: any, remote_ports: 443", "tcp out to anybody port 443"),
        ("direction: in, protocol: tcp, remote: any, local_ports: 80", "tcp in from anybody to own port 80"),
    ] {
        let lists = "lists: { names: [a.example.org, b.example.org], nets: [10.0.2.0/24] }\n";
        let text = with_head(&format!("{lists}exclusions: {{ automatic: [{{ name: x, {conditions} }}] }}"));
        assert_eq!(passing(&text), [format!("x: {printed}")], "{conditions}");
    }
}

#[test]
fn what_is_wrong_is_said_where_it_stands() {
    const NETWORK: &str = "write an address, a network or a name in full";
    for (entry, column, words) in [
        ("dns-cleint", 27, "did you mean dns-client?"),
        ("{ direction: out, protocol: tcp, remote: 10.0.0.1 }", 27, "has no name; it needs name, direction, protocol and remote"),
        ("{ name: x, direction: out, remote: 10.0.0.1 }", 27, "has no protocol"),
        ("{ name: x, direction: both, protocol: tcp, remote: 10.0.0.1 }", 49, "write out or in"),
        ("{ name: x, direction: out, protocol: tcp, remote: 10.0.0.1, ports: 1 }", 87, "is no key of an exclusion"),
        ("{ name: x, direction: out, protocol: tcp, remote: 10.0.0.1, usr: a }", 87, "did you mean user?"),
        ("{ name: x, direction: out, protocol: tcp, remote: 10.0.0.1, if_listening: true }", 87, "is no key of an exclusion"),
        ("{ name: x, direction: out, protocol: tcp, remote: 10.0.0.1, until: 2026-11-22 }", 87, "comes with a request and never"),
        // Whom.
        ("{ name: x, direction: out, protocol: tcp, remote: 10.0.5.10/24 }", 77, "write 10.0.5.0/24 or 10.0.5.10"),
        ("{ name: x, direction: out, protocol: tcp, remote: 10.0.5.256 }", 77, NETWORK),
        ("{ name: x, direction: out, protocol: tcp, remote: resolvers }", 77, NETWORK),
        ("{ name: x, direction: out, protocol: tcp, remote: siem.example.org. }", 77, NETWORK),
        ("{ name: x, direction: out, protocol: tcp, remote: https://siem.example.org/ }", 77, NETWORK),
        ("{ name: x, direction: out, protocol: tcp, remote: \"*.example.org\" }", 77, "write each name"),
        ("{ name: x, direction: out, protocol: tcp, remote: anyy }", 77, "did you mean any?"),
        ("{ name: x, direction: out, protocol: tcp, remote: [10.0.0.1, any] }", 88, "write remote: any alone"),
        ("{ name: x, direction: out, protocol: tcp, remote: [] }", 77, "is an empty list"),
        ("{ name: x, direction: out, protocol: tcp, remote: $none }", 77, "no such list"),
        (
            "{ name: x, direction: out, protocol: tcp, remote: [10.0.0.1, a.example.org, 10.0.0.2] }",
            88,
            "the name a.example.org among addresses; split it into two exclusions, one for the addresses and one for the names",
        ),
        (
            "{ name: x, direction: out, protocol: tcp, remote: [a.example.org, 10.0.0.1] }",
            93,
            "the network 10.0.0.1/32 among names; split it into two exclusions",
        ),
        ("{ name: x, direction: out, protocol: tcp, remote: [a.example.org, $nets] }", 93, "the network 10.0.2.0/24 among names"),
        // By what.
        ("{ name: x, direction: out, protocol: TCP, remote: 10.0.0.1 }", 64, "did you mean tcp?"),
        ("{ name: x, direction: out, protocol: sctpp, remote: 10.0.0.1 }", 64, "did you mean sctp?"),
        ("{ name: x, direction: out, protocol: 256, remote: 10.0.0.1 }", 64, "a number from 0 to 255"),
        ("{ name: x, direction: out, protocol: [tcp], remote: 10.0.0.1 }", 64, "protocol is a list"),
        ("{ name: x, direction: out, protocol: tcp, remote: 10.0.0.1, remote_ports: 0 }", 101, "ports from 1 to 65535"),
        ("{ name: x, direction: out, protocol: tcp, remote: 10.0.0.1, remote_ports: [] }", 101, "is an empty list"),
        (
            "{ name: x, direction: out, protocol: icmp, remote: any, local_ports: 1 }",
            83,
            "protocol icmp has no ports; remove local_ports",
        ),
        ("{ name: x, direction: out, protocol: gre, remote: any, remote_ports: 1 }", 82, "protocol gre has no ports"),
        ("{ name: x, direction: out, protocol: any, remote: 10.0.0.1, remote_ports: 1 }", 87, "protocol any has no ports"),
        ("{ name: x, direction: out, protocol: icmp, remote: any, icmp_types: echo }", 95, "echo-request, timestamp-request"),
        ("{ name: x, direction: out, protocol: icmp, remote: any, icmp_types: echo-reqest }", 95, "did you mean echo-request?"),
        ("{ name: x, direction: out, protocol: icmp, remote: any, icmp_types: [] }", 95, "is an empty list"),
        ("{ name: x, direction: out, protocol: 1, remote: any, icmp_types: echo-request }", 80, "or write protocol: icmp"),
        (
            "{ name: x, direction: out, protocol: icmp, remote: any, icmp_types: echo-request, user: a }",
            83,
            "are not distinguished for a user or unit",
        ),
        // Whose.
        ("{ name: x, direction: out, protocol: tcp, remote: 10.0.0.1, user: a b }", 93, "a local user, by name or number"),
        ("{ name: x, direction: out, protocol: tcp, remote: 10.0.0.1, user: on }", 93, "a truth value"),
        ("{ name: x, direction: out, protocol: tcp, remote: 10.0.0.1, user: 4294967295 }", 93, "a local user, by name or number"),
        ("{ name: x, direction: out, protocol: tcp, remote: 10.0.0.1, user: [a] }", 93, "user is a list"),
        ("{ name: x, direction: out, protocol: tcp, remote: 10.0.0.1, unit: wazuh-agent }", 93, "write the unit with its kind"),
        ("{ name: x, direction: out, protocol: tcp, remote: 10.0.0.1, unit: .service }", 93, "write the unit with its kind"),
        ("{ name: x, direction: out, protocol: tcp, remote: 10.0.0.1, unit: ../a.service }", 93, "write the unit with its kind"),
        ("dns-client, dns-client", 39, "twice"),
        ("[dns-client]", 27, "a list inside a list"),
    ] {
        let text = with_head(&format!("exclusions: {{ automatic: [{entry}] }}\nlists: {{ nets: [10.0.2.0/24] }}"));
        refused(&text, &[(&format!("2:{column}"), words)]);
    }
}

#[test]
fn what_would_isolate_from_nothing_is_refused() {
    for conditions in [
        "protocol: tcp, remote: any",
        "protocol: udp, remote: 0.0.0.0/0",
        "protocol: sctp, remote: any",
        "protocol: any, remote: any",
        "protocol: any, remote: \"::/0\"",
        "protocol: any, remote: [0.0.0.0/1, 128.0.0.0/1]",
        "protocol: any, remote: any, user: backup",
        "protocol: tcp, remote: any, remote_ports: 1-65535",
        "protocol: tcp, remote: any, remote_ports: [30000-65535, 1-20000, 15000-29999]",
        "protocol: tcp, remote: any, remote_ports: 1-65534, local_ports: 1-65534",
        "protocol: tcp, remote: 0.0.0.0/1",
        "protocol: tcp, remote: \"::ffff:0.0.0.0/96\"",
    ] {
        for direction in [" out", "  in"] {
            let text = automatic(&format!("{{ name: x, direction: {direction}, {conditions} }}"));
            let column = 27 + "{ name: x, direction:  out, ".len() + conditions.find("remote: ").unwrap() + "remote: ".len();
            refused(&text, &[(&format!("2:{column}"), "isolates from nothing")]);
        }
    }
    for conditions in [
        "protocol: tcp, remote: any, remote_ports: [443, 8443]",
        "protocol: tcp, remote: any, remote_ports: 49152-65535, local_ports: 1",
        "protocol: any, remote: 10.0.0.0/8",
        "protocol: icmp, remote: any",
    ] {
        let text = automatic(&format!("{{ name: x, direction: out, {conditions} }}"));
        assert_eq!(errors(&text), [""; 0], "{conditions}");
    }
}

#[test]
fn exclusions_that_isolate_from_nothing_together_are_refused() {
    let half = |name: &str, net: &str| {
        format!("{{ name: {name}, direction: out, protocol: tcp, remote: {net}, remote_ports: 1-20000 }}")
    };
    let quarters = |nets: &[&str]| {
        automatic(&nets.iter().enumerate().map(|(n, net)| half(&format!("x{n}"), net)).collect::<Vec<_>>().join(", "))
    };
    assert_eq!(errors(&quarters(&["0.0.0.0/1"])), [""; 0]);
    refused(&quarters(&["0.0.0.0/1", "128.0.0.0/1"]), &[("2:26", "automatic, all together: 30.51% outwards")]);
}

#[test]
fn an_ipv4_address_written_as_ipv6_is_the_ipv4_address() {
    for (written, meant) in [("::ffff:10.213.0.250", "10.213.0.250/32"), ("::FFFF:10.213.0.0/120", "10.213.0.0/24")] {
        let text = automatic(&format!("{{ name: x, direction: out, protocol: tcp, remote: \"{written}\" }}"));
        assert_eq!(passing(&text), [format!("x: tcp out to {meant}")]);
    }
    for (written, words) in [
        ("fe80::1%eth0", "has a zone"),
        ("010.0.0.1", "has leading zeros"),
        ("::ffff:10.213.0.1/120", "write 10.213.0.0/24 or 10.213.0.1"),
    ] {
        let before = "{ name: x, direction: out, protocol: tcp, remote: ";
        refused(&automatic(&format!("{before}\"{written}\" }}")), &[(&format!("2:{}", 27 + before.len()), words)]);
    }
}

#[test]
fn a_list_is_bounded() {
    let entry = |n: usize, more: &str| format!("{{ name: x{n}, direction: out, protocol: tcp, remote: 10.0.0.1{more} }}");
    let many = |count, more| (0..count).map(|n| entry(n, more)).collect::<Vec<_>>().join(", ");
    assert_eq!(passing(&automatic(&many(200, ""))).len(), 200);
    refused(&automatic(&many(201, "")), &[("2:26", "has 201 entries; at most 200")]);
    assert_eq!(passing(&automatic(&many(64, ", user: a"))).len(), 64);
    refused(
        &automatic(&many(65, ", user: a")),
        &[("2:26", "all together: 65 exclusions are for a user or unit, and a host enforces 64 of them")],
    );
    let nets: Vec<String> = (0..=255).flat_map(|a| (0..20).map(move |b| format!("10.{a}.{b}.1"))).collect();
    let entry = |n: usize| format!("{{ name: x{n}, direction: out, protocol: tcp, remote: $nets }}");
    let text = |many: usize| {
        let entries: Vec<String> = (0..many).map(entry).collect();
        with_head(&format!("lists: {{ nets: [{}] }}\nexclusions: {{ automatic: [{}] }}", nets.join(", "), entries.join(", ")))
    };
    assert_eq!(errors(&text(2)), [""; 0]);
    let found = errors(&text(3));
    assert!(
        found.len() == 1 && found[0].starts_with("3:26 automatic, all together: 2") && found[0].contains("room for 196608"),
        "{found:?}"
    );
}

#[test]
fn entries_of_lists_are_judged_where_they_stand() {
    let text = "version: 1\nlists:\n  bad: [10.0.0.1/8, elastic]\nexclusions:\n  automatic:\n    - { name: x, direction: out, protocol: tcp, remote: $bad }\nrules:\n  - { name: rest, then: observe }\n";
    refused(text, &[("3:9", "$bad has 10.0.0.1/8, an address inside a network"), ("3:21", "$bad has \"elastic\"")]);
}
