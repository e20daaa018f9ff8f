//! Profiles: each standard one with its parameters, a policy's own, and what is refused where.

use super::*;

fn used(profiles: &str, automatic: &str) -> String {
    with_head(&format!(
        "lists: {{ jump_hosts: [10.0.5.10, \"2001:db8:5::10\"], edr: [ts01-b.cloudsink.net] }}\nprofiles: {{ {profiles} }}\nexclusions: {{ automatic: [{automatic}] }}"
    ))
}

#[test]
fn each_standard_profile_with_its_parameters() {
    const SIEM: &str = "x: { extends: NAME, to: siem.example.org }";
    let siem = |profile: &str| SIEM.replace("NAME", profile);
    for (profile, opens) in [
        (
            "x: { extends: ntp-client, servers: [10.0.0.1, 10.0.0.9] }".to_owned(),
            &["udp out to 10.0.0.1/32, 10.0.0.9/32 port 123"][..],
        ),
        (
            "x: { extends: ssh-admin, from: $jump_hosts }".to_owned(),
            &["tcp in from 10.0.5.10/32, 2001:db8:5::10/128 to own port 22"],
        ),
        (
            "x: { extends: ssh-admin, from: 10.0.5.0/24, ports: [22, 2222] }".to_owned(),
            &["tcp in from 10.0.5.0/24 to own port 22, 2222"],
        ),
        (
            "x: { extends: agent, unit: a.service, to: a.example.org, ports: 8443 }".to_owned(),
            &["tcp out to a.example.org by name port 8443, unit a.service only"],
        ),
        (
            "x: { extends: agent, unit: a.service, to: 10.0.0.1, ports: 8443, user: 990 }".to_owned(),
            &["tcp out to 10.0.0.1/32 port 8443, user 990 only, unit a.service only"],
        ),
        (siem("wazuh"), &["tcp out to siem.example.org by name port 1514, 1515, 1517, unit wazuh-agent.service only"]),
        (siem("elastic-agent"), &["tcp out to siem.example.org by name port 8220, 9200, unit elastic-agent.service only"]),
        (siem("velociraptor"), &["tcp out to siem.example.org by name port 8000, unit velociraptor_client.service only"]),
        (
            "x: { extends: falcon, to: $edr }".to_owned(),
            &["tcp out to ts01-b.cloudsink.net by name port 443, unit falcon-sensor.service only"],
        ),
        (siem("mde"), &["tcp out to siem.example.org by name port 443, unit mdatp.service only"]),
        (siem("osquery"), &["tcp out to siem.example.org by name port 443, unit osqueryd.service only"]),
        (siem("filebeat"), &["tcp out to siem.example.org by name port 5044, 9200, unit filebeat.service only"]),
        (
            siem("rsyslog"),
            &[
                "tcp out to siem.example.org by name port 514, 6514, unit rsyslog.service only",
                "udp out to siem.example.org by name port 514, 6514, unit rsyslog.service only",
            ],
        ),
        (siem("auditd"), &["tcp out to siem.example.org by name port 60, unit auditd.service only"]),
        (
            "x: { extends: vpn, unit: openvpn@hq.service, endpoint: 192.0.2.1 }".to_owned(),
            &[
                "udp out to 192.0.2.1/32 port 443, 500, 1194, 4500, unit openvpn@hq.service only",
                "tcp out to 192.0.2.1/32 port 443, 500, 1194, 4500, unit openvpn@hq.service only",
            ],
        ),
        (
            "x: { extends: kubernetes-node, api: 10.0.0.1 }".to_owned(),
            &[
                "tcp out to 10.0.0.1/32 port 6443, unit kubelet.service only",
                "tcp in from 10.0.0.1/32 to own port 10250, unit kubelet.service only",
            ],
        ),
        (
            "x: { extends: cloud-aws }".to_owned(),
            &["tcp out to 169.254.169.254/32, fd00:ec2::254/128 port 80, user 0 only, unit amazon-ssm-agent.service only"],
        ),
        (
            "x: { extends: cloud-azure, unit: waagent.service }".to_owned(),
            &["tcp out to 168.63.129.16/32 port 80, 32526, user 0 only, unit waagent.service only"],
        ),
        (
            "x: { extends: cloud-gcp }".to_owned(),
            &["tcp out to 169.254.169.254/32, fd20:ce::254/128 port 80, user 0 only, unit google-guest-agent.service only"],
        ),
        (
            "x: { extends: dns-client }".to_owned(),
            &["udp out to the host's resolvers port 53", "tcp out to the host's resolvers port 53"],
        ),
        (
            "x: { extends: dns-server }".to_owned(),
            &[
                "udp in from anybody to own port 53, if something listens there",
                "tcp in from anybody to own port 53, if something listens there",
            ],
        ),
        (
            "x: { extends: dhcp-client }".to_owned(),
            &[
                "udp out to the host's DHCP servers port 67 from own port 68",
                "udp in from the host's DHCP servers port 67 to own port 68",
                "udp out to ff02::1:2/128 port 547 from own port 546, if something listens there",
                "udp in from fe80::/10 port 547 to own port 546, if something listens there",
            ],
        ),
        (
            "x: { extends: dhcp-server }".to_owned(),
            &[
                "udp in from anybody to own port 67, if something listens there",
                "udp out to anybody port 68 from own port 67, if something listens there",
                "udp out to 255.255.255.255/32 port 68 from own port 67, if something listens there",
                "udp in from anybody to own port 547, if something listens there",
                "udp out to fe80::/10 port 546 from own port 547, if something listens there",
            ],
        ),
    ] {
        let opens: Vec<String> = opens.iter().map(|opens| format!("x: {opens}")).collect();
        assert_eq!(passing(&used(&profile, "x")), opens, "{profile}");
    }
}

#[test]
fn a_standard_profile_says_what_it_does_not_load_without() {
    for (profile, missing) in [
        ("ntp-client", Some("servers (networks or names); define my-ntp-client: { extends: ntp-client, servers: … }")),
        ("ssh-admin", Some("from (networks or names)")),
        (
            "agent",
            Some(
                "unit (a unit), to (networks or names) and ports (ports); define my-agent: { extends: agent, unit: …, to: …, ports: … }",
            ),
        ),
        ("wazuh", Some("to (networks or names)")),
        ("elastic-agent", Some("to (")),
        ("velociraptor", Some("to (")),
        ("falcon", Some("to (")),
        ("mde", Some("to (")),
        ("osquery", Some("to (")),
        ("filebeat", Some("to (")),
        ("rsyslog", Some("to (")),
        ("auditd", Some("to (")),
        ("vpn", Some("unit (a unit) and endpoint (")),
        ("kubernetes-node", Some("api (")),
        ("cloud-aws", None),
        ("cloud-azure", None),
        ("cloud-gcp", None),
        ("dns-client", None),
        ("dns-server", None),
        ("dhcp-client", None),
        ("dhcp-server", None),
    ] {
        let text = with_head(&format!("exclusions: {{ automatic: [{profile}] }}"));
        match missing {
            Some(missing) => refused(&text, &[("2:27", &format!("profile {profile} does not load without {missing}"))]),
            None => assert_eq!(errors(&text), [""; 0], "{profile}"),
        }
    }
}

#[test]
fn own_profiles_extend_each_other_and_the_nearest_value_counts() {
    let profiles = "base: { extends: agent, unit: a.service, ports: 1 }, site: { extends: base, to: 10.0.0.1 }, other: { extends: site, ports: [2, 3], user: a }";
    assert_eq!(
        passing(&used(profiles, "other, site")),
        [
            "other: tcp out to 10.0.0.1/32 port 2, 3, user a only, unit a.service only",
            "site: tcp out to 10.0.0.1/32 port 1, unit a.service only",
        ]
    );
    // In any order of the text.
    let profiles = "c: { extends: b, from: 10.0.0.3 }, b: { extends: a, ports: 23 }, a: { extends: ssh-admin, from: 10.0.0.1 }";
    assert_eq!(
        passing(&used(profiles, "c, a")),
        ["c: tcp in from 10.0.0.3/32 to own port 23", "a: tcp in from 10.0.0.1/32 to own port 22"]
    );
}

#[test]
fn a_standard_profile_can_be_adapted_under_its_own_name() {
    let profiles = "ssh-admin: { extends: ssh-admin, from: $jump_hosts }, wide: { extends: ssh-admin, ports: 2222 }";
    assert_eq!(
        passing(&used(profiles, "ssh-admin, wide")),
        [
            "ssh-admin: tcp in from 10.0.5.10/32, 2001:db8:5::10/128 to own port 22",
            "wide: tcp in from 10.0.5.10/32, 2001:db8:5::10/128 to own port 2222",
        ]
    );
    // What a standard profile stands on does not change with it.
    let profiles = "agent: { extends: agent, to: 10.0.0.9, unit: a.service, ports: 9 }, wazuh: { extends: wazuh, to: 10.0.0.1 }";
    assert_eq!(
        passing(&used(profiles, "wazuh")),
        ["wazuh: tcp out to 10.0.0.1/32 port 1514, 1515, 1517, unit wazuh-agent.service only"]
    );
}

#[test]
fn exclusions_under_a_name() {
    let profiles = "backup: [{ direction: out, protocol: tcp, remote: $jump_hosts, remote_ports: 873, user: backup }, { direction: out, protocol: icmp, remote: any, icmp_types: echo-request }]";
    let opens = [
        "backup: tcp out to 10.0.5.10/32, 2001:db8:5::10/128 port 873, user backup only",
        "backup: icmp out to anybody, echo-request only",
    ];
    assert_eq!(passing(&used(profiles, "backup")), opens);
    let text = used(&format!("{profiles}, again: {{ extends: backup }}"), "again");
    assert_eq!(passing(&text), opens.map(|line| line.replacen("backup", "again", 1)));
}

#[test]
fn what_is_wrong_with_a_profile_is_said_where_it_stands() {
    const ENTRY: &str = "direction: out, protocol: tcp, remote: 10.0.0.1";
    for (profile, column, words) in [
        ("x: { extends: ssh-admn }".to_owned(), 27, "did you mean ssh-admin?"),
        ("x: { extends: ww }, w: { extends: dns-client }".to_owned(), 27, "did you mean w?"),
        ("x: { extends: [ssh-admin] }".to_owned(), 27, "extends is a list"),
        ("x: { from: 10.0.0.1 }".to_owned(), 16, "profile x extends nothing"),
        ("x: ssh-admin".to_owned(), 16, "profile x is text"),
        ("x: [ssh-admin]".to_owned(), 17, "has text among its exclusions"),
        ("x: []".to_owned(), 16, "is an empty list"),
        ("a b: { extends: dns-client }".to_owned(), 13, "is no name of a profile"),
        ("x: { extends: ssh-admin, frmo: 10.0.0.1 }".to_owned(), 38, "did you mean from? (it takes from and ports)"),
        (
            "x: { extends: dns-client, to: 10.0.0.1 }".to_owned(),
            39,
            "is no parameter of profile dns-client (it takes no parameters)",
        ),
        ("x: { extends: cloud-aws, user: 1000 }".to_owned(), 38, "is no parameter of profile cloud-aws"),
        (
            "x: { extends: ssh-admin }".to_owned(),
            13,
            "profile x does not load without from (networks or names); write from: … beside extends",
        ),
        ("x: { extends: vpn, endpoint: 10.0.0.1 }".to_owned(), 13, "does not load without unit (a unit)"),
        ("x: { extends: ssh-admin, from: 10.0.0.1/8 }".to_owned(), 44, "from has 10.0.0.1/8, an address inside a network"),
        ("x: { extends: ssh-admin, from: resolvers }".to_owned(), 44, "from has \"resolvers\""),
        ("x: { extends: ssh-admin, from: $jump_hots }".to_owned(), 44, "did you mean jump_hosts?"),
        ("x: { extends: ssh-admin, from: any }".to_owned(), 44, "from is any; name networks or names"),
        (
            "x: { extends: ssh-admin, from: [10.0.0.1, a.example.org] }".to_owned(),
            55,
            "among addresses; split it into two profiles",
        ),
        ("x: { extends: ssh-admin, from: 10.0.0.1, ports: ssh }".to_owned(), 61, "ports is \"ssh\""),
        ("x: { extends: wazuh, to: 10.0.0.1, unit: wazuh-agent }".to_owned(), 54, "write the unit with its kind"),
        ("x: { extends: wazuh, to: 10.0.0.1, user: a b }".to_owned(), 54, "user is \"a b\""),
        ("x: { extends: vpn, unit: a.service, endpoint: 0.0.0.0/0, ports: 1-65535 }".to_owned(), 59, "isolates from nothing"),
        ("x: { extends: osquery, to: 169.254.0.0/16, ports: 80 }".to_owned(), 40, "to holds 169.254.169.254, where a cloud"),
        ("x: { extends: rsyslog, to: metadata.google.internal, ports: 80 }".to_owned(), 40, "to holds metadata.google.internal"),
        (
            "dns-client: { extends: agent }".to_owned(),
            13,
            "is a standard profile; adapt it with dns-client: { extends: dns-client }",
        ),
        (format!("wazuh: [{{ {ENTRY} }}]"), 13, "wazuh is a standard profile"),
        ("x: { extends: x }".to_owned(), 27, "in a circle: x extends x"),
        (
            "v: { extends: w }, w: { extends: x }, x: { extends: v }".to_owned(),
            65,
            "in a circle: v extends w extends x extends v",
        ),
        (format!("x: [{{ name: a, {ENTRY} }}]"), 19, "\"name\" is no key of an exclusion"),
        ("x: [{ direction: out, protocol: tcp }]".to_owned(), 17, "has no remote; it needs direction, protocol and remote"),
        (format!("x: [{{ {ENTRY}, if_listening: true }}]"), 68, "is no key of an exclusion"),
        ("x: [{ direction: out, protocol: tcp, remote: any }]".to_owned(), 58, "isolates from nothing"),
        (format!("x: [{{ {ENTRY} }}], w: {{ extends: x, to: 10.0.0.1 }}"), 88, "is no parameter of profile x"),
        ("x: { extends: ssh-admin, from: 10.0.0.1, extends: wazuh }".to_owned(), 54, "a second time"),
    ] {
        refused(&used(&profile, ""), &[(&format!("3:{column}"), words)]);
    }
    refused(&with_head("profiles: [ssh-admin]"), &[("2:11", "profiles is a list")]);
    // A base that leaves something open is no mistake, until it is used as it is.
    let base = "base: { extends: agent, unit: a.service }, x: { extends: base, to: 10.0.0.1, ports: 1 }";
    assert_eq!(errors(&used(base, "x")), [""; 0]);
    refused(
        &used(base, "base"),
        &[("4:27", "profile base does not load without to (networks or names) and ports (ports); define my-base: {")],
    );
    // What is wrong once is said once, wherever it is used.
    refused(
        &used("x: { extends: ssh-admin }, w: { extends: ssh-admn }", "x, w, x"),
        &[("3:13", "without from"), ("3:54", "did you mean")],
    );
    refused(&used("wider: { extends: dns-client }", "wdier"), &[("4:27", "did you mean wider?")]);
}

#[test]
fn profiles_are_bounded() {
    let many: Vec<String> = (0..201).map(|n| format!("x{n}: {{ extends: dns-client }}")).collect();
    assert_eq!(errors(&used(&many[..200].join(", "), "x199")), [""; 0]);
    refused(&used(&many.join(", "), ""), &[("3:11", "profiles has 201 entries; at most 200")]);
    // The longest chain there can be.
    let chain: Vec<String> = (1..200).map(|n| format!("x{n}: {{ extends: x{} }}", n - 1)).collect();
    let text = used(&format!("x0: {{ extends: ssh-admin, from: 10.0.0.1 }}, {}", chain.join(", ")), "x199");
    assert_eq!(passing(&text), ["x199: tcp in from 10.0.0.1/32 to own port 22"]);
}
