//! What lists of exclusions open, and which are too much.

use serde_json::json;

use super::*;

fn exclusion(direction: &str, protocol: &str, remote: serde_json::Value, ports: &[&str]) -> Exclusion {
    let of = if direction == "out" { "remote_ports" } else { "local_ports" };
    let mut value = json!({ "name": "x", "direction": direction, "protocol": protocol, "remote": remote });
    value[of] = json!(ports);
    serde_json::from_value(value).expect("valid")
}

fn nets(nets: &[&str]) -> serde_json::Value {
    json!({ "cidrs": nets })
}

#[test]
fn everything_and_nearly_everything_is_refused_however_it_is_written() {
    let any = || json!("any");
    let wide: Vec<Vec<Exclusion>> = vec![
        vec![exclusion("out", "any", any(), &[])],
        vec![exclusion("in", "any", any(), &[])],
        vec![exclusion("out", "tcp", any(), &[])],
        vec![exclusion("out", "tcp", any(), &["1-65534"])],
        vec![exclusion("out", "tcp", any(), &["1-22", "24-65535"])],
        vec![exclusion("out", "udp", nets(&["0.0.0.0/0"]), &["1024-65535"])],
        vec![exclusion("in", "sctp", nets(&["2000::/3"]), &["1-40000"])],
        vec![exclusion("out", "tcp", nets(&["0.0.0.0/2", "64.0.0.0/2"]), &[])],
        vec![exclusion("out", "tcp", any(), &["1-32767"]), exclusion("out", "tcp", any(), &["32768-65535"])],
        vec![exclusion("out", "tcp", nets(&["0.0.0.0/1"]), &[]), exclusion("out", "tcp", nets(&["128.0.0.0/1"]), &[])],
        // Conditions on the caller's own port limit nobody.
        vec![Exclusion { local_ports: vec![PortRange::one(5000)], ..exclusion("out", "tcp", any(), &[]) }],
        vec![Exclusion { remote_ports: vec![PortRange::one(443)], ..exclusion("in", "tcp", any(), &[]) }],
    ];
    for exclusions in wide {
        assert!(matches!(check(&exclusions), Err(TooMuch::Open { .. })), "{exclusions:?}: {}", opens(&exclusions));
    }
    let text = check(&[exclusion("out", "any", any(), &[])]).expect_err("too much").to_string();
    assert!(text.contains("100% outwards, 0% inwards") && text.contains("isolates from nothing"), "{text}");
}

#[test]
fn what_operators_exclude_is_small() {
    let small = [
        (exclusion("out", "tcp", json!("any"), &["443"]), 16),
        (exclusion("in", "udp", json!("any"), &["53"]), 16),
        (exclusion("out", "tcp", nets(&["10.0.0.0/8"]), &[]), 4465),
        (exclusion("out", "tcp", nets(&["10.0.0.1/32"]), &["22"]), 1),
        (exclusion("out", "tcp", nets(&["2001:db8::1/128", "fd00::/8"]), &[]), 0),
        (exclusion("in", "icmp", json!("any"), &[]), 0),
        (exclusion("out", "gre", json!("any"), &[]), 0),
        (exclusion("out", "tcp", json!({ "names": ["siem.example.org"] }), &[]), 0),
        (exclusion("out", "udp", json!({ "known": "resolvers" }), &["53"]), 0),
    ];
    for (exclusion, share) in small {
        let opens = check([&exclusion]).expect("small");
        assert_eq!(opens.outwards.max(opens.inwards), share, "{exclusion:?}");
    }
    assert_eq!(Opens { outwards: 4465, inwards: 16 }.to_string(), "0.4465% outwards, 0.0016% inwards");
    assert_eq!(Opens { outwards: 571_429, inwards: 100_000 }.to_string(), "57.14% outwards, 10% inwards");
}

/// Beside a count of each address and port, in a space so small that it can be counted.
#[test]
fn the_share_is_that_of_the_union() {
    let mut state = 1u64;
    let mut below = |end: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % end
    };
    for _ in 0..200 {
        let exclusions: Vec<Exclusion> = (0..below(6) + 1)
            .map(|_| {
                // The first octet, in eighths of the address space; ports in eighths of all.
                let (length, low) = (below(4) as u8, below(8) * 8192);
                let net = format!("{}.0.0.0/{length}", (below(7) * 32) >> (8 - length) << (8 - length));
                let ports = format!("{}-{}", low.max(1), low + 8191);
                exclusion("out", "tcp", nets(&[&net]), &[&ports])
            })
            .collect();
        let mut cells = 0u64;
        for eighth in 0..7u32 {
            for port in 0..8u16 {
                let inside = |exclusion: &Exclusion| {
                    let Remote::Cidrs(nets) = &exclusion.remote else { return false };
                    let address = std::net::IpAddr::from((eighth << 29 | 1).to_be_bytes());
                    nets.iter().any(|net| net.trunc().contains(&address))
                        && exclusion.remote_ports.iter().any(|range| range.contains(port * 8192 + 5))
                };
                cells += u64::from(exclusions.iter().any(inside));
            }
        }
        let expected = (cells * 1_000_000).div_ceil(56) as u32;
        assert_eq!(opens(&exclusions).outwards, expected, "{exclusions:?}");
    }
}

#[test]
fn many_single_hosts_fit_and_many_that_overlap_do_not() {
    let hosts: Vec<String> = (0..20_000u32).map(|n| format!("10.{}.{}.{}/32", n >> 16, n >> 8 & 255, n & 255)).collect();
    let hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
    let many = exclusion("out", "tcp", nets(&hosts), &["443"]);
    assert!(fits([&many]));
    assert!(!fits([&many, &many]), "as many again");
    // Forty thousand of different shapes.
    let shapes: Vec<Exclusion> = (0..40_000u32)
        .map(|n| {
            let net = format!("10.{}.0.0/{}", n % 256, 16 + n % 17);
            exclusion(
                "out",
                ["tcp", "udp", "any"][n as usize % 3],
                nets(&[&net]),
                if n % 3 == 2 { &[] } else { &["1-9", "20-99"] },
            )
        })
        .collect();
    assert_eq!(check(&shapes), Err(TooMuch::Parts));
    // A few wide ones over many small ones.
    let wide: Vec<Exclusion> =
        (0..100u32).map(|n| exclusion("out", "tcp", nets(&["10.0.0.0/8"]), &[&format!("{}", n * 7 + 1)])).collect();
    assert!(fits(&wide) && !fits(wide.iter().chain([&exclusion("out", "tcp", nets(&hosts[..1_000]), &["443"])])));
    assert!(!fits([&exclusion("out", "tcp", json!({ "names": vec!["a.example"; 3_000] }), &[])]));
}
