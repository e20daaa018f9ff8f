//! One host or none: ids, names, addresses, and who held them first.

use portcullis_schemas::events::Hello;

use super::*;
use crate::testing::{HOUR, World, at, hello, id};

const DAY: i64 = 24 * HOUR;

#[test]
fn the_host_is_meant_that_has_all_that_tells_hosts_apart() {
    let world = fleet(&[
        ("h1", "web.corp.example", &["10.0.0.1", "172.17.0.1"]),
        ("h2", "db.corp.example", &["10.0.0.2", "172.17.0.1"]),
        ("h3", "web.lab.example", &["10.0.0.3", "172.17.0.1"]),
    ]);
    for (what, given, found) in [
        ("by id, whatever else is said", claim(Some("h1"), Some("db.corp.example"), &["10.0.0.2"]), "h1"),
        ("a vendor's own id is passed over", claim(Some("{4f-9}"), Some("db.corp.example"), &["10.0.0.2"]), "h2"),
        ("an unknown id and an unknown name too", claim(Some("h9"), Some("nobody"), &["10.0.0.2"]), "h2"),
        ("by its full name", claim(None, Some("web.corp.example"), &[]), "h1"),
        ("in any case, with a final dot", claim(None, Some(" WEB.Corp.Example. "), &[]), "h1"),
        ("by a short name", claim(None, Some("DB"), &[]), "h2"),
        ("by an address that stands in the name's place", claim(None, Some("10.0.0.2"), &[]), "h2"),
        ("one address of several", claim(None, None, &["192.0.2.9", "10.0.0.1"]), "h1"),
        ("both addresses of one", claim(None, None, &["10.0.0.1", "10.0.0.1"]), "h1"),
        ("its own address beside one that several have", claim(None, None, &["10.0.0.2", "172.17.0.1"]), "h2"),
        ("the other way round", claim(None, None, &["172.17.0.1", "10.0.0.2"]), "h2"),
        ("a name of two with an address of one of them", claim(None, Some("web"), &["10.0.0.3"]), "h3"),
        ("a name of two with an address of three", claim(None, Some("web.lab.example"), &["172.17.0.1"]), "h3"),
    ] {
        assert_eq!(resolve(&world.fleet, &given, at(5)), Ok(id(found)), "{what}");
    }
}

#[test]
fn none_or_several_are_nobody() {
    let world = fleet(&[("h1", "web.a.example", &["10.0.0.1", "10.9.0.1"]), ("h2", "web.b.example", &["10.0.0.2", "10.9.0.1"])]);
    for (what, given, wanted, candidates) in [
        ("nothing known", claim(Some("h9"), Some("x"), &["10.9.9.9"]), "id h9, name x, address 10.9.9.9", &[][..]),
        ("a short name of two", claim(None, Some("web"), &[]), "name web", &["h1", "h2"]),
        ("an address of two", claim(None, None, &["10.9.0.1"]), "address 10.9.0.1", &["h1", "h2"]),
        ("both of two", claim(None, Some("web"), &["10.9.0.1"]), "name web, address 10.9.0.1", &["h1", "h2"]),
        ("addresses of two", claim(None, None, &["10.0.0.1", "10.0.0.2"]), "address 10.0.0.1, address 10.0.0.2", &["h1", "h2"]),
        (
            "the name of one, the address of the other",
            claim(None, Some("web.a.example"), &["10.0.0.2"]),
            "name web.a.example, address 10.0.0.2",
            &["h1", "h2"],
        ),
        ("nothing at all", claim(None, None, &[]), "", &[]),
        ("another domain's name", claim(None, Some("web.c.example"), &[]), "name web.c.example", &[]),
        ("an id in another case", claim(Some("H1"), None, &[]), "id H1", &[]),
    ] {
        let unresolved = Unresolved { wanted: wanted.into(), candidates: candidates.iter().map(|host| id(host)).collect() };
        assert_eq!(resolve(&world.fleet, &given, at(5)), Err(unresolved), "{what}");
    }
}

#[test]
fn an_address_on_every_hosts_own_bridge_names_nobody_and_hides_nobody() {
    let mut world = World::new();
    world.fleet = Fleet::default();
    let docker =
        |host: &str, own: &str| Hello { internal_ips: vec!["172.17.0.1".into()], ..named(host, host, &[own, "172.17.0.1"]) };
    world.says(docker("h1", "10.0.0.1"), 0);
    let bridge = claim(None, None, &["172.17.0.1"]);
    assert_eq!(resolve(&world.fleet, &bridge, at(1)), Ok(id("h1")), "a single host has it");
    // However long the first one has had it.
    assert_eq!(world.says(docker("h2", "10.0.0.2"), 30 * DAY), "nothing", "it is expected, and no notice");
    let found = resolve(&world.fleet, &bridge, at(30 * DAY + 1)).map_err(|unresolved| unresolved.candidates);
    assert_eq!(found, Err(vec![id("h1"), id("h2")]));
    // It contradicts nothing either: a host may have started its bridge just now.
    world.says(named("h3", "h3", &["10.0.0.3"]), 30 * DAY);
    for (own, host) in [("10.0.0.1", "h1"), ("10.0.0.2", "h2"), ("10.0.0.3", "h3")] {
        assert_eq!(resolve(&world.fleet, &claim(None, None, &[own, "172.17.0.1"]), at(30 * DAY + 1)), Ok(id(host)));
    }
}

#[test]
fn hosts_that_never_said_on_what_device_an_address_is_share_it_all_the_same() {
    let world = fleet(&[("h1", "a", &["172.17.0.1"]), ("h2", "b", &["172.17.0.1"]), ("h3", "c", &["172.17.0.1"])]);
    let found = resolve(&world.fleet, &claim(None, None, &["172.17.0.1"]), at(5)).map_err(|unresolved| unresolved.candidates);
    assert_eq!(found, Err(vec![id("h1"), id("h2"), id("h3")]), "and not the first one's");
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
fn a_newcomer_takes_nothing_from_a_host_that_held_it_long_before() {
    let mut world = fleet(&[("h2", "web", &["10.0.0.1"])]);
    let by =
        [claim(None, Some("web"), &[]), claim(None, None, &["10.0.0.1"]), claim(None, Some("web.corp.example"), &["10.0.0.1"])];
    world.says(named("h1", "web", &["10.0.0.1"]), HOUR);
    for second in [HOUR, HOUR + DAY - 1] {
        world.hears("h2", second);
        for given in &by {
            assert_eq!(resolve(&world.fleet, given, at(second)), Ok(id("h2")), "{given:?}");
        }
    }
    // After a day both have it: two private networks may well have the same addresses.
    for given in &by {
        let found = resolve(&world.fleet, given, at(HOUR + DAY)).map_err(|unresolved| unresolved.candidates);
        assert_eq!(found, Err(vec![id("h1"), id("h2")]), "{given:?}");
    }
    world.says(Hello { hostname: "other".into(), ..hello("h2") }, HOUR + DAY);
    assert_eq!(resolve(&world.fleet, &by[2], at(HOUR + DAY)), Ok(id("h1")), "given up, it is the other's");
}

#[test]
fn a_newcomer_that_claims_the_very_name_takes_nothing_from_one_that_is_called_alike() {
    for (established, newcomer, asked) in [("web.corp.example", "web", "web"), ("web", "web.corp.example", "web.corp.example")] {
        let mut world = fleet(&[("h1", established, &[])]);
        world.says(named("h9", newcomer, &[]), 2 * DAY);
        let given = claim(None, Some(asked), &[]);
        assert_eq!(resolve(&world.fleet, &given, at(2 * DAY + 1)), Ok(id("h1")), "{asked}");
        assert!(resolve(&world.fleet, &given, at(4 * DAY)).is_err(), "{asked}");
    }
    // Where both were there from the beginning the one with the very name is meant.
    let world = fleet(&[("h1", "web.corp.example", &[]), ("h2", "web", &[])]);
    assert_eq!(resolve(&world.fleet, &claim(None, Some("web"), &[]), at(DAY)), Ok(id("h2")));
}

#[test]
fn a_host_that_reboots_gives_nothing_away() {
    let mut world = fleet(&[("h1", "web", &["10.0.0.1"])]);
    world.says(named("h9", "x", &["10.0.0.1"]), 3 * HOUR);
    world.says(named("h1", "web", &[]), 4 * HOUR);
    world.says(named("h1", "web", &["10.0.0.1"]), 4 * HOUR + 60);
    assert_eq!(resolve(&world.fleet, &claim(None, None, &["10.0.0.1"]), at(5 * HOUR)), Ok(id("h1")));
}

#[test]
fn a_first_holder_that_is_silent_leaves_it_open_for_a_day() {
    let mut world = fleet(&[("h1", "web", &["10.0.0.1"])]);
    world.silence(9_000);
    assert_eq!(resolve(&world.fleet, &claim(None, None, &["10.0.0.1"]), at(9_000)), Ok(id("h1")), "nobody else claims it");
    world.says(named("h2", "web", &["10.0.0.1"]), 9_000);
    let by = [claim(None, Some("web"), &[]), claim(None, None, &["10.0.0.1"])];
    for given in &by {
        let found = resolve(&world.fleet, given, at(9_001)).map_err(|unresolved| unresolved.candidates);
        assert_eq!(found, Err(vec![id("h1"), id("h2")]), "{given:?}");
        assert_eq!(resolve(&world.fleet, given, at(DAY + 1)), Ok(id("h2")), "{given:?}: it is another's by now");
    }
    world.says(named("h1", "web", &["10.0.0.1"]), 9_002);
    assert_eq!(resolve(&world.fleet, &by[1], at(9_003)), Ok(id("h1")), "heard again");
}

/// Random fleets, in which hosts share names and addresses, and random claims.
#[test]
fn what_is_found_depends_on_no_order_and_newcomers_change_nothing() {
    let mut resolved = [0; 2];
    for seed in 0..2_000 {
        let mut chance = Chance(seed);
        let mut hosts: Vec<(Hello, i64)> = (1..=6).map(|n| (random(&mut chance, n), chance.below(4) * HOUR)).collect();
        let now = 10 * DAY;
        let claims: Vec<HostClaim> = (0..8).map(|_| random_claim(&mut chance)).collect();
        let before = told(&hosts);
        let found: Vec<_> = claims.iter().map(|claim| resolve(&before, claim, at(now))).collect();
        for (claim, found) in claims.iter().zip(&found) {
            resolved[usize::from(found.is_ok())] += 1;
            if let Ok(host) = found {
                let inventory = before.host(host).and_then(|host| host.inventory.as_deref()).expect("it is known");
                let called = claim.hostname.iter().chain(&claim.ips).any(|text| is_called(inventory, text));
                assert!(called, "{seed}: {host} has nothing of {claim:?}");
            }
            let mut turned = claim.clone();
            turned.ips.reverse();
            assert_eq!(resolve(&before, &turned, at(now)).ok(), found.clone().ok(), "{seed}: {claim:?}");
        }
        // The same words in another order, at the same times.
        hosts.reverse();
        hosts.rotate_left(chance.below(6) as usize);
        let turned = told(&hosts);
        for (claim, found) in claims.iter().zip(&found) {
            assert_eq!(resolve(&turned, claim, at(now)), *found, "{seed}: {claim:?}");
        }
        // One that comes today and claims everything that others have.
        let all = Hello { hostname: "web".into(), ips: (0..6).map(ip).collect(), ..hello("h9") };
        hosts.push((Hello { internal_ips: all.ips.clone(), ..all.clone() }, now - HOUR));
        hosts.push((Hello { host: id("h8"), ..all }, now - HOUR));
        let after = told(&hosts);
        for (claim, found) in claims.iter().zip(&found) {
            if let Ok(host) = found
                && claim.hostname.iter().chain(&claim.ips).all(|text| telling(&before, text))
            {
                assert_eq!(resolve(&after, claim, at(now)), Ok(host.clone()), "{seed}: {claim:?}");
            }
        }
    }
    assert!(resolved.iter().all(|count| *count > 1_000), "{resolved:?}: the claims are too easy");
}

/// Whether no host has it as an internal address, and some host has it: a newcomer is the only one that has what nobody had.
fn telling(fleet: &Fleet, text: &str) -> bool {
    let of =
        |id: &HostId| fleet.host(id).and_then(|host| host.inventory.clone()).into_iter().flat_map(|inventory| inventory.claims);
    let claims: Vec<_> = fleet.hosts().flat_map(|(id, _)| of(id)).filter(|claim| claim.value == text).collect();
    !claims.is_empty() && claims.iter().all(|claim| !claim.internal)
}

fn told(hosts: &[(Hello, i64)]) -> Fleet {
    let mut fleet = Fleet::default();
    for (hello, since) in hosts {
        let inventory = fleet.inventory_for(hello, at(*since)).expect("the first word is news");
        fleet.take_inventory(inventory, at(*since));
    }
    fleet
}

fn random(chance: &mut Chance, n: i64) -> Hello {
    let names = ["web", "web.corp.example", "db.corp.example", "app"];
    let ips: Vec<String> = (0..6).filter(|_| chance.below(3) == 0).map(ip).collect();
    Hello {
        hostname: names[chance.below(4) as usize].into(),
        internal_ips: ips.iter().filter(|_| chance.below(4) == 0).cloned().collect(),
        ips,
        ..hello(&format!("h{n}"))
    }
}

fn random_claim(chance: &mut Chance) -> HostClaim {
    let names = ["web", "web.corp.example", "db", "app", "x"];
    let name = (chance.below(2) == 0).then(|| names[chance.below(5) as usize]);
    let ips: Vec<String> = (0..chance.below(3)).map(|_| ip(chance.below(7))).collect();
    HostClaim { id: None, hostname: name.map(str::to_owned), ips }
}

fn ip(n: i64) -> String {
    format!("10.0.0.{}", n + 1)
}

/// SplitMix64.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: i64) -> i64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % bound as u64) as i64
    }
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
