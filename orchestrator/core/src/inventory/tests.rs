//! What a host says of itself, compared and kept.

use portcullis_schemas::events::{OperatorWord, Posture};

use super::*;
use crate::testing::{at, hello};

#[test]
fn a_claim_keeps_the_time_from_which_it_has_been_held() {
    let first = of(None, &Hello { ips: vec!["10.0.0.1".into()], ..hello("h1") }, at(0), false).expect("the first word is news");
    let with = Hello { ips: vec!["10.0.0.2".into(), "10.0.0.1".into(), "::ffff:10.0.0.1".into()], ..hello("h1") };
    let second = of(Some(&first), &with, at(60), false).expect("a new address is news");
    let since: Vec<_> = second.claims.iter().map(|claim| (claim.value.as_str(), claim.since)).collect();
    assert_eq!(since, [("10.0.0.1", at(0)), ("10.0.0.2", at(60)), ("h1.corp.example", at(0))]);
    let third = of(Some(&second), &hello("h1"), at(70), false).expect("an address given up is news");
    assert_eq!(claims(&third).map(|claim| claim.value.as_str()).collect::<Vec<_>>(), ["h1.corp.example"]);
    assert_eq!(of(Some(&third), &hello("h1"), at(80), false), None, "what was given up is no news each time");
    let again = of(Some(&third), &with, at(90), false).expect("and so is one taken up again");
    assert_eq!((again.claims[0].since, again.claims[0].left_at), (at(0), None), "a reboot gives nothing away");
    let late = of(Some(&third), &with, at(90_000), false).expect("news as well");
    assert_eq!(late.claims[0].since, at(90_000), "after a day its time starts again");
    assert_eq!(
        of(Some(&third), &hello("h1"), at(90_000), false).map(|inventory| inventory.claims.len()),
        Some(1),
        "and it is forgotten"
    );
}

#[test]
fn what_moves_with_every_word_is_no_news() {
    let known = of(None, &hello("h1"), at(0), false);
    let moved = Hello { generation: 7, posture: Posture::Isolated, ..hello("h1") };
    assert_eq!(of(known.as_ref(), &moved, at(30), false), None);
    assert!(of(known.as_ref(), &moved, at(30), true).is_some(), "it is, where the host is ahead of the log of orders");
    for news in [
        Hello { kernel: "7.0".into(), ..hello("h1") },
        Hello { boot_id: "two".into(), ..hello("h1") },
        Hello { roles: vec!["router".into()], ..hello("h1") },
    ] {
        assert!(of(known.as_ref(), &news, at(30), false).is_some(), "{news:?}");
    }
    let silent = known.map(|known| Inventory { silent_since: Some(at(5)), ..known });
    assert!(of(silent.as_ref(), &hello("h1"), at(30), false).is_some(), "the end of a silence is news");
}

#[test]
fn a_role_has_the_time_from_which_it_was_reported_without_interruption() {
    let roles = |names: &[&str]| Hello { roles: names.iter().map(ToString::to_string).collect(), ..hello("h1") };
    let first = of(None, &roles(&["router"]), at(0), false).expect("news");
    let second = of(Some(&first), &roles(&["dns-server", "router"]), at(60), false).expect("a new role is news");
    assert_eq!(second.roles_since, [("dns-server".to_owned(), at(60)), ("router".to_owned(), at(0))].into());
    let third = of(Some(&second), &roles(&["dns-server"]), at(70), false).expect("news");
    let fourth = of(Some(&third), &roles(&["dns-server", "router"]), at(80), false).expect("news");
    assert_eq!(fourth.roles_since, [("dns-server".to_owned(), at(60)), ("router".to_owned(), at(80))].into());
    let untimed = Inventory { roles_since: BTreeMap::new(), ..fourth.clone() };
    let timed = of(Some(&untimed), &fourth.hello, at(90), false).expect("what an earlier version stored has no times");
    assert_eq!(timed.roles_since["router"], at(90));
    assert_eq!(of(Some(&timed), &fourth.hello, at(99), false), None);
}

#[test]
fn a_hello_changes_nothing_of_what_operators_say() {
    let word = OperatorWord { labels: [("tier".to_owned(), Some("db".to_owned()))].into(), ..OperatorWord::default() };
    let known = of(None, &hello("h1"), at(0), false).map(|known| Inventory { operator: Some(word.clone()), ..known });
    let next = of(known.as_ref(), &Hello { kernel: "7".into(), ..hello("h1") }, at(5), false).expect("news");
    assert_eq!(next.operator, Some(word));
}

#[test]
fn a_name_is_compared_in_lower_case_without_its_final_dot() {
    for (text, compared) in [
        ("Web.Corp.Example.", Some("web.corp.example")),
        ("WIN_7-a", Some("win_7-a")),
        ("localhost", None),
        ("LOCALHOST.localdomain", None),
        ("", None),
        (".", None),
        ("a..b", None),
        ("a b", None),
        ("a;b", None),
    ] {
        assert_eq!(name(text).as_deref(), compared, "{text}");
    }
    assert_eq!((name(&"a".repeat(64)), name(&"a.".repeat(127)).map(|name| name.len())), (None, Some(253)));
    assert_eq!(name(&"a.".repeat(128)), None);
}

#[test]
fn a_host_that_changes_its_addresses_all_the_time_fills_no_memory() {
    let mut known = of(None, &hello("h1"), at(0), false);
    for second in 1..500 {
        let moved = Hello { ips: vec![format!("10.0.{}.{}", second / 250, second % 250)], ..hello("h1") };
        known = of(known.as_ref(), &moved, at(second), false);
    }
    assert_eq!(known.map(|known| known.claims.len()), Some(2 + 64));
}
