//! What exclusions become on a host.

use portcullis_schemas::exclusion::PortRange;

use super::*;

#[test]
fn resolvers_are_the_frozen_ones_without_loopback() {
    let facts = HostFacts { resolvers: ips(&["127.0.0.53", "::1", "10.0.0.53", "fd00::53", "0.0.0.0"]), ..Default::default() };
    let (passes, problems) = resolve(&[known(Known::Resolvers)], &facts, at(0));
    assert_eq!(nets(&passes[0]), ["10.0.0.53/32", "fd00::53/128"]);
    assert_eq!(problems, []);
}

#[test]
fn what_cannot_be_resolved_is_left_out_and_named() {
    let facts = HostFacts { resolvers: ips(&["127.0.0.53"]), ..Default::default() };
    let icmp = Exclusion { protocol: Protocol::Icmp, ..out(Remote::Any) };
    let empty = out(Remote::Cidrs(vec![]));
    let twice = [known(Known::Resolvers), known(Known::Resolvers), known(Known::DhcpServers), icmp, empty];
    let (passes, problems) = resolve(&twice, &facts, at(0));
    assert_eq!(passes, []);
    let reasons: Vec<_> = problems.iter().map(|p| p.reason).collect();
    use Unresolved::*;
    assert_eq!(reasons, [NoResolver, NoDhcpServer, NoPorts, NoNetwork]);
    assert_eq!(problems[0].to_string(), "exclusion \"x\" is left out: no resolver outside loopback is known");
}

#[test]
fn an_order_that_breaks_into_too_many_parts_is_taken_as_far_as_it_is_bounded() {
    let shape = |n: u32| Exclusion {
        name: format!("x{n}"),
        protocol: [Protocol::Tcp, Protocol::Udp, Protocol::Any][n as usize % 3],
        remote_ports: if n % 3 == 2 { vec![] } else { vec![PortRange::one(n as u16 | 1), PortRange::one(9)] },
        ..out(Remote::Cidrs(vec![format!("10.{}.0.0/{}", n % 256, 16 + n % 17).parse().unwrap()]))
    };
    let exclusions: Vec<_> = (0..40_000).map(shape).collect();
    let (passes, problems) = resolve(&exclusions, &HostFacts::default(), at(0));
    assert!(measure::fits(&exclusions[..passes.len()]) && !measure::fits(&exclusions[..=passes.len()]), "{}", passes.len());
    let left = Problem { exclusion: format!("x{}", passes.len()), reason: Unresolved::TooManyParts(40_000 - passes.len()) };
    assert_eq!(problems, [left]);
    assert!(problems[0].is_excess());
}

#[test]
fn what_opens_everything_is_known_by_its_share() {
    let any = Exclusion { protocol: Protocol::Any, remote_ports: vec![], ..out(Remote::Any) };
    let ended = Exclusion { until: Some(at(0)), ..any.clone() };
    assert!(opens(&[any], at(0)).is_wide() && opens(&[ended], at(0)) == Opens::default());
}

#[test]
fn dhcp_clients_may_speak_to_broadcast_of_the_families_that_have_a_server() {
    let both = HostFacts { dhcp_servers: ips(&["10.0.0.1", "fe80::1"]), ..Default::default() };
    let v4 = HostFacts { dhcp_servers: ips(&["10.0.0.1"]), ..Default::default() };
    let of = |facts: &HostFacts, exclusion| nets(&resolve(&[exclusion], facts, at(0)).0[0]);
    assert_eq!(of(&both, known(Known::DhcpServers)), ["10.0.0.1/32", "255.255.255.255/32", "fe80::1/128", "ff02::1:2/128"]);
    assert_eq!(of(&v4, known(Known::DhcpServers)), ["10.0.0.1/32", "255.255.255.255/32"]);
    assert_eq!(of(&v4, Exclusion { direction: Direction::In, ..known(Known::DhcpServers) }), ["10.0.0.1/32"]);
}

#[test]
fn if_listening_is_inert_unless_something_listens() {
    let facts = HostFacts { listening: Listening { tcp: [53].into(), udp: [5353].into() }, ..Default::default() };
    let serve = |protocol, port| Exclusion {
        direction: Direction::In,
        protocol,
        remote_ports: vec![],
        local_ports: vec![PortRange::one(port)],
        if_listening: true,
        ..out(Remote::Any)
    };
    let (passes, problems) = resolve(&[serve(Protocol::Tcp, 53), serve(Protocol::Udp, 53)], &facts, at(0));
    assert_eq!(passes.len(), 1);
    assert_eq!(passes[0].protocol, Protocol::Tcp);
    assert_eq!(problems, []);
}

#[test]
fn names_users_and_units_are_what_the_host_says_of_them() {
    let names = |names: &[&str]| out(Remote::Names(names.iter().map(|name| name.parse().unwrap()).collect()));
    let group = ControlGroup { path: "system.slice/a.service".into(), id: 77, below: vec![] };
    let facts = HostFacts {
        names: [("siem.example".to_owned(), ips(&["10.0.0.9", "fd00::9"])), ("silent.example".to_owned(), vec![])].into(),
        users: [("backup".to_owned(), 34)].into(),
        groups: [("a.service".to_owned(), group.clone())].into(),
        ..Default::default()
    };
    let bound = |user: Option<&str>, unit: Option<&str>| Exclusion {
        user: user.map(|user| user.parse().unwrap()),
        unit: unit.map(|unit| unit.parse().unwrap()),
        ..names(&["siem.example"])
    };
    let exclusions = [
        names(&["siem.example", "silent.example"]),
        names(&["silent.example"]),
        bound(Some("backup"), None),
        bound(Some("1000"), Some("a.service")),
        bound(Some("nobody-here"), None),
        bound(None, Some("b.service")),
    ];
    let (passes, problems) = resolve(&exclusions, &facts, at(0));
    assert_eq!(nets(&passes[0]), ["10.0.0.9/32", "fd00::9/128"]);
    let locals: Vec<_> = passes.iter().map(|pass| pass.local.clone()).collect();
    assert_eq!(locals, [Local::default(), Local { uid: Some(34), group: None }, Local { uid: Some(1000), group: Some(group) }]);
    let reasons: Vec<_> = problems.iter().map(|problem| problem.reason).collect();
    assert_eq!(reasons, [Unresolved::NoAddress, Unresolved::NoUser, Unresolved::NoUnit]);
    assert_eq!(super::names(&exclusions), ["siem.example", "silent.example"].map(str::to_owned).into());
}

#[test]
fn a_name_opens_neither_the_link_nor_a_metadata_service() {
    let odd = [
        "169.254.169.254",
        "fe80::1",
        "224.0.0.1",
        "ff02::1",
        "168.63.129.16",
        "fd00:ec2::254",
        "127.0.0.1",
        "::ffff:169.254.0.1",
    ];
    let facts =
        HostFacts { names: [("a.example".to_owned(), ips(&[&odd[..], &["10.0.0.9"]].concat()))].into(), ..Default::default() };
    let named = out(Remote::Names(vec!["a.example".parse().unwrap()]));
    assert_eq!(nets(&resolve(&[named], &facts, at(0)).0[0]), ["10.0.0.9/32"]);
}

#[test]
fn exclusions_for_users_are_bounded() {
    let mine = Exclusion { user: Some("0".parse().unwrap()), ..out(Remote::Any) };
    let (passes, problems) = resolve(&vec![mine; MOST_BOUND + 1], &HostFacts::default(), at(0));
    assert_eq!((passes.len(), problems[0].reason), (MOST_BOUND, Unresolved::TooManyBound));
}

#[test]
fn a_temporary_exclusion_ends_at_its_until() {
    let x = Exclusion { until: Some(at(100)), ..out(Remote::Any) };
    assert_eq!(resolve(std::slice::from_ref(&x), &HostFacts::default(), at(99)).0.len(), 1);
    assert_eq!(resolve(&[x], &HostFacts::default(), at(100)), (vec![], vec![]));
}

#[test]
fn multicast_and_broadcast_pass_only_as_named() {
    let of = |list: &[&str]| {
        let list = list.iter().map(|net| net.parse().unwrap()).collect();
        nets(&resolve(&[out(Remote::Cidrs(list))], &HostFacts::default(), at(0)).0[0])
    };
    assert_eq!(of(&["0.0.0.0/0"]), ["0.0.0.0/1", "128.0.0.0/2", "192.0.0.0/3"]);
    assert_eq!(of(&["224.0.0.251/32", "10.1.2.3/8", "10.0.0.0/9"]), ["10.0.0.0/8", "224.0.0.251/32"]);
    assert!(!resolve(&[out(Remote::Any)], &HostFacts::default(), at(0)).0[0].remotes.iter().any(|net| {
        net.contains(&"ff02::1".parse::<IpAddr>().unwrap()) || net.contains(&"255.255.255.255".parse::<IpAddr>().unwrap())
    }));
}

fn out(remote: Remote) -> Exclusion {
    Exclusion {
        name: "x".into(),
        direction: Direction::Out,
        protocol: Protocol::Udp,
        remote,
        remote_ports: vec![PortRange::one(53)],
        local_ports: vec![],
        icmp_types: vec![],
        user: None,
        unit: None,
        if_listening: false,
        until: None,
    }
}

fn known(known: Known) -> Exclusion {
    out(Remote::Known(known))
}

fn ips(list: &[&str]) -> Vec<IpAddr> {
    list.iter().map(|ip| ip.parse().unwrap()).collect()
}

fn nets(pass: &Pass) -> Vec<String> {
    let mut nets = pass.remotes.clone();
    nets.sort();
    nets.iter().map(ToString::to_string).collect()
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_timestamp(second, 0).unwrap()
}
