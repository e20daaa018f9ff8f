//! Cells of overlapping passes.

use portcullis_schemas::exclusion::IcmpType;

use super::*;
use crate::gate::Local;

#[test]
fn overlapping_passes_become_disjoint_cells_and_both_port_conditions_stay_together() {
    let passes = [pass(&["10.0.0.0/8"], &[(443, 443)], &[]), pass(&["10.1.0.0/16"], &[(400, 500)], &[(68, 68)])];
    let cells = of(&passes);
    assert_disjoint(&cells);
    for (remote, remote_port, local_port, through) in [
        ("10.1.0.1", 443, 68, true),
        ("10.1.0.1", 443, 5000, true),
        ("10.1.0.1", 444, 68, true),
        ("10.1.0.1", 444, 5000, false),
        ("10.2.0.1", 443, 5000, true),
        ("10.2.0.1", 444, 68, false),
        ("11.0.0.1", 443, 68, false),
    ] {
        assert_eq!(holds(&cells, remote, remote_port, local_port), through, "{remote} {remote_port} {local_port}");
    }
}

#[test]
fn each_cell_belongs_to_the_passes_that_cover_it_in_whatever_order_they_stand() {
    let passes = [pass(&["10.0.0.0/9"], &[(1, 70)], &[]), pass(&["10.0.0.0/9"], &[(60, 100)], &[])];
    let found: Vec<_> = of(&passes).into_iter().map(|cell| (cell.remote_port, cell.owners)).collect();
    assert_eq!(found, [((1, 59), vec![0]), ((60, 70), vec![0, 1]), ((71, 100), vec![1])]);
    let turned = [passes[1].clone(), passes[0].clone()];
    let shapes = |passes: &[Pass]| of(passes).into_iter().map(|cell| Cell { owners: vec![], ..cell }).collect::<Vec<_>>();
    assert_eq!(shapes(&turned), shapes(&passes));
}

#[test]
fn neighbours_of_one_pass_become_one_cell() {
    let parts = pass(&["10.128.0.0/9", "10.0.0.0/9"], &[(51, 100), (1, 50), (40, 60)], &[]);
    assert_eq!(of(&[parts]), of(&[pass(&["10.0.0.0/8"], &[(1, 100)], &[])]));
}

#[test]
fn any_protocol_lies_over_the_named_ones() {
    let any = Pass { protocol: Protocol::Any, ..pass(&["10.0.0.0/8"], &[], &[]) };
    let found: Vec<_> =
        of(&[any, pass(&["10.0.0.0/8"], &[], &[])]).into_iter().map(|cell| (cell.protocol, cell.owners)).collect();
    assert_eq!(found, [((0, 5), vec![0]), ((6, 6), vec![0, 1]), ((7, 255), vec![0])]);
}

#[test]
fn types_of_icmp_are_numbers_of_the_family_with_their_answers() {
    let ping = Pass {
        protocol: Protocol::Icmp,
        icmp_types: vec![IcmpType::EchoRequest],
        ..pass(&["10.0.0.0/8", "2001:db8::/32"], &[], &[])
    };
    let types = |family| {
        let cells = icmp_cells([&ping].into_iter().enumerate(), Direction::Out, family);
        cells.into_iter().map(|cell| cell.type_and_code).collect::<Vec<_>>()
    };
    assert_eq!(types(Family::V4), [(0, 0xff), (0x800, 0x8ff)]);
    // Neighbours, and so one cell.
    assert_eq!(types(Family::V6), [(0x8000, 0x81ff)]);
    assert_eq!(of(&[ping]), []);
}

#[test]
fn ten_thousand_hosts_are_ten_thousand_cells() {
    let nets: Vec<String> = (0..10_000).map(|n| format!("10.{}.{}.0/31", n / 250, n % 250)).collect();
    let nets: Vec<&str> = nets.iter().map(String::as_str).collect();
    assert_eq!(of(&[pass(&nets, &[(443, 443)], &[])]).len(), 10_000);
}

#[test]
fn the_ends_of_the_number_ranges_hold() {
    let passes = [pass(&["ff00::/8", "::/128"], &[(65535, 65535), (1, 1)], &[])];
    let cells = cells(passes.iter().enumerate(), Direction::Out, Family::V6);
    assert_disjoint(&cells);
    assert!(holds(&cells, "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", 65535, 0));
    assert!(holds(&cells, "::", 1, 65535));
    assert!(!holds(&cells, "::1", 1, 1));
}

fn pass(remotes: &[&str], remote_ports: &[(u16, u16)], local_ports: &[(u16, u16)]) -> Pass {
    let ports = |list: &[(u16, u16)]| list.iter().map(|(a, b)| PortRange::new(*a, *b).unwrap()).collect();
    Pass {
        name: "x".into(),
        direction: Direction::Out,
        protocol: Protocol::Tcp,
        remotes: remotes.iter().map(|net| net.parse().unwrap()).collect(),
        remote_ports: ports(remote_ports),
        local_ports: ports(local_ports),
        icmp_types: vec![],
        local: Local::default(),
    }
}

fn of(passes: &[Pass]) -> Vec<Cell> {
    cells(passes.iter().enumerate(), Direction::Out, Family::V4)
}

fn holds(cells: &[Cell], remote: &str, remote_port: u16, local_port: u16) -> bool {
    let remote = bits(remote.parse().unwrap());
    cells.iter().any(|cell| {
        (cell.remote.0..=cell.remote.1).contains(&remote)
            && (cell.remote_port.0..=cell.remote_port.1).contains(&remote_port)
            && (cell.local_port.0..=cell.local_port.1).contains(&local_port)
    })
}

fn assert_disjoint(cells: &[Cell]) {
    let apart = |a: Span<u128>, b: Span<u128>| a.1 < b.0 || b.1 < a.0;
    let wide = |a: Span<u16>| (u128::from(a.0), u128::from(a.1));
    let number = |a: Span<u8>| (u128::from(a.0), u128::from(a.1));
    for (i, a) in cells.iter().enumerate() {
        for b in &cells[i + 1..] {
            let ports = apart(wide(a.remote_port), wide(b.remote_port)) || apart(wide(a.local_port), wide(b.local_port));
            assert!(apart(number(a.protocol), number(b.protocol)) || apart(a.remote, b.remote) || ports, "{a:?} {b:?}");
        }
    }
}
