//! One host or none: ids, names, addresses, and who held them first.

use portcullis_schemas::events::Hello;

use super::*;
use crate::testing::{World, at, hello, id};

#[test]
fn the_first_thing_that_names_a_host_decides() {
    let world = fleet(&[("h1", "web.corp.example", &["10.0.0.1"]), ("h2", "db.corp.example", &["10.0.0.2"])]);
    for (what, given, found) in [
        ("by id", claim(Some("h1"), Some("db.corp.example"), &["10.0.0.2"]), "h1"),
        ("a vendor's own id is passed over", claim(Some("{4f-9}"), Some("db.corp.example"), &["10.0.0.1"]), "h2"),
        ("an unknown id and an unknown name too", claim(Some("h9"), Some("nobody"), &["10.0.0.2"]), "h2"),
        ("by its full name", claim(None, Some("web.corp.example"), &[]), "h1"),
        ("in any case, with a final dot", claim(None, Some(" WEB.Corp.Example. "), &[]), "h1"),
        ("by a short name", claim(None, Some("DB"), &[]), "h2"),
        ("one address of several", claim(None, None, &["192.0.2.9", "10.0.0.1"]), "h1"),
        ("both addresses of one", claim(None, None, &["10.0.0.1", "10.0.0.1"]), "h1"),
    ] {
        assert_eq!(resolve(&world.fleet, &given, at(5)), Ok(id(found)), "{what}");
    }
}

#[test]
fn none_or_several_are_nobody() {
    let world = fleet(&[("h1", "web.a.example", &["10.0.0.1"]), ("h2", "web.b.example", &["10.0.0.2"])]);
    for (what, given, wanted, candidates) in [
        ("nothing known", claim(Some("h9"), Some("x"), &["10.9.9.9"]), "id h9, name x, address 10.9.9.9", &[][..]),
        ("a short name of two", claim(None, Some("web"), &["10.0.0.1"]), "web", &["h1", "h2"]),
        ("addresses of two", claim(None, None, &["10.0.0.1", "10.0.0.2"]), "address 10.0.0.1, address 10.0.0.2", &["h1", "h2"]),
        ("nothing at all", claim(None, None, &[]), "", &[]),
        ("another domain's name", claim(None, Some("web.c.example"), &[]), "name web.c.example", &[]),
        ("an id in another case", claim(Some("H1"), None, &[]), "id H1", &[]),
    ] {
        let unresolved = Unresolved { wanted: wanted.into(), candidates: candidates.iter().map(|host| id(host)).collect() };
        assert_eq!(resolve(&world.fleet, &given, at(5)), Err(unresolved), "{what}");
    }
}

#[test]
fn a_host_that_knows_its_short_name_only_is_found_by_its_full_one() {
    let world = fleet(&[("h1", "web", &[]), ("h2", "db.corp.example", &[])]);
    assert_eq!(resolve(&world.fleet, &claim(None, Some("web.corp.example"), &[]), at(5)), Ok(id("h1")));
}

#[test]
fn an_address_is_compared_in_one_form() {
    let world = fleet(&[("h1", "web", &["10.0.0.1", "2001:DB8:0::7"])]);
    for same in [
        "10.0.0.1",
        " 10.0.0.1 ",
        "::ffff:10.0.0.1",
        "::FFFF:a00:1",
        "2001:db8::7",
        "2001:db8::7%eth0",
        "[2001:db8::7]:443",
        "[2001:db8::7%3]",
    ] {
        assert_eq!(resolve(&world.fleet, &claim(None, None, &[same]), at(5)), Ok(id("h1")), "{same}");
    }
}

#[test]
fn an_address_that_every_host_has_names_nobody() {
    let common = [
        "127.0.0.1",
        "127.8.0.1",
        "::1",
        "169.254.1.1",
        "fe80::1",
        "fe80::1%eth0",
        "0.0.0.0",
        "::",
        "224.0.0.1",
        "ff02::1",
        "255.255.255.255",
        "::ffff:127.0.0.1",
        "::ffff:169.254.1.1",
        "10.0.0",
        "x",
    ];
    let world = fleet(&[("h1", "localhost", &common), ("h2", "localhost.localdomain", &[])]);
    for text in common {
        assert_eq!(address(text), None, "{text}");
        assert!(resolve(&world.fleet, &claim(None, Some("localhost"), &[text]), at(5)).is_err(), "{text}");
    }
    assert!(world.fleet.claimants("localhost").is_empty());
}

#[test]
fn the_binding_that_stood_first_wins() {
    let mut world = fleet(&[("h2", "web", &["10.0.0.1"]), ("h1", "web", &["10.0.0.1"])]);
    for given in [claim(None, Some("web"), &[]), claim(None, None, &["10.0.0.1"]), claim(None, Some("web.corp.example"), &[])] {
        assert_eq!(resolve(&world.fleet, &given, at(5)), Ok(id("h2")), "{given:?}");
    }
    world.says(Hello { hostname: "other".into(), ..hello("h2") }, 6);
    assert_eq!(
        resolve(&world.fleet, &claim(None, Some("web"), &["10.0.0.1"]), at(7)),
        Ok(id("h1")),
        "given up, it is the next one's"
    );
}

#[test]
fn a_first_holder_that_is_silent_leaves_it_open() {
    let mut world = fleet(&[("h1", "web", &["10.0.0.1"])]);
    assert_eq!(resolve(&world.fleet, &claim(None, None, &["10.0.0.1"]), at(9_000)), Ok(id("h1")), "nobody else claims it");
    world.says(named("h2", "web", &["10.0.0.1"]), 200);
    for given in [claim(None, Some("web"), &[]), claim(None, None, &["10.0.0.1"])] {
        let found = resolve(&world.fleet, &given, at(201)).map_err(|unresolved| unresolved.candidates);
        assert_eq!(found, Err(vec![id("h1"), id("h2")]), "{given:?}");
    }
    world.fleet.hear(&hello("h1"), at(202));
    assert_eq!(resolve(&world.fleet, &claim(None, None, &["10.0.0.1"]), at(203)), Ok(id("h1")), "heard again");
}

fn fleet(hosts: &[(&str, &str, &[&str])]) -> World {
    let mut world = World::new();
    world.fleet = Fleet::default();
    for (second, (host, name, ips)) in (0..).zip(hosts) {
        world.says(named(host, name, ips), second);
    }
    world
}

fn named(host: &str, name: &str, ips: &[&str]) -> Hello {
    Hello { hostname: name.into(), ips: ips.iter().map(|ip| (*ip).to_owned()).collect(), ..hello(host) }
}

fn claim(id: Option<&str>, name: Option<&str>, ips: &[&str]) -> HostClaim {
    HostClaim {
        id: id.map(str::to_owned),
        hostname: name.map(str::to_owned),
        ips: ips.iter().map(|ip| (*ip).to_owned()).collect(),
    }
}
