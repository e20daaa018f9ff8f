//! Which host is meant.

use super::{find, pick};
use crate::failure::{Exit, Failure};
use crate::fake::{Fake, at, host};

#[test]
fn a_host_is_found_by_id_name_short_name_and_address() {
    let hosts = [host("h-1", "web1.example.org", &["10.0.0.5", "2001:db8::5"]), host("h-2", "db1.example.org", &["10.0.0.6"])];
    for wanted in ["h-1", "H-1", "web1.example.org", "WEB1.Example.org.", "web1", "10.0.0.5", "2001:DB8:0::5", " h-1 "] {
        assert_eq!(pick(&hosts, wanted, at(0)).expect(wanted), 0);
    }
    assert_eq!(pick(&hosts, "db1", at(0)).expect("found"), 1);
}

#[test]
fn an_exact_id_wins_over_another_hosts_name() {
    // An agent may call itself as it likes; it takes no other host's id by that.
    let hosts = [host("liar", "web1", &[]), host("web1", "real.example.org", &[])];
    assert_eq!(pick(&hosts, "web1", at(0)).expect("found"), 1);
    assert_eq!(pick(&hosts, "WEB1", at(0)).expect("found"), 1);
}

#[test]
fn a_name_that_two_hosts_have_finds_neither() {
    let hosts = [host("a", "web1.east", &["10.0.0.5"]), host("b", "web1.west", &["10.0.0.5"])];
    for wanted in ["web1", "10.0.0.5"] {
        let failure = pick(&hosts, wanted, at(0)).expect_err(wanted);
        assert_eq!((failure.code(), failure.exit()), ("ambiguous", Exit::NotFound));
        assert_eq!(failure.candidates().iter().map(|one| one.host.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        assert!(failure.hint().expect("a hint").contains("a (web1.east), b (web1.west)"));
    }
}

#[test]
fn a_name_that_nobody_has_names_those_that_come_near() {
    let hosts = [host("h-1", "web1", &["10.0.0.5"]), host("h-2", "db1", &[])];
    let failure = pick(&hosts, "web", at(0)).expect_err("none");
    assert_eq!(failure.hint().expect("a hint"), "did you mean h-1 (web1)?");
    assert_eq!(failure.exit(), Exit::NotFound);
    // A part of an address is no name, and neither is nothing.
    assert!(pick(&hosts, "10", at(0)).is_err());
    assert!(pick(&hosts, "", at(0)).is_err());
    assert!(matches!(pick(&[], "web1", at(0)), Err(Failure::NoHost { known: 0, .. })));
}

#[tokio::test]
async fn what_is_no_host_id_is_looked_for_all_the_same() {
    let client = Fake::new(vec![host("h-1", "web1.example.org", &[])], |_| Vec::new());
    assert_eq!(find(&client, "web1.example.org", at(0)).await.expect("found").host.as_str(), "h-1");
}

#[test]
fn a_host_is_found_by_whatever_a_detection_finds_it_by() {
    // It calls itself by its short name, and senders know the full one.
    let hosts = [host("h-8", "h8", &["10.0.0.8", "172.17.0.1"]), host("h-9", "h9", &["10.0.0.9", "172.17.0.1"])];
    for wanted in ["h8.example.org", "H8.Example.ORG.", "h8", "10.0.0.8", "::ffff:10.0.0.8", "[::ffff:10.0.0.8]:443"] {
        assert_eq!(pick(&hosts, wanted, at(0)).expect(wanted), 0);
    }
    let failure = pick(&hosts, "172.17.0.1", at(0)).expect_err("two have it");
    assert_eq!(failure.candidates().len(), 2);
}
