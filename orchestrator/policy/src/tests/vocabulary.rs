//! What operators write with the words of a policy.

use crate::Vocabulary;

const POLICY: &str = "
lists: { jump: [10.0.5.10/32, '2001:db8:5::10/128'] }
profiles:
  ssh-jump: { extends: ssh-admin, from: $jump }
  backup: [{ direction: out, protocol: tcp, remote: 10.0.7.0/24, remote_ports: 8443 }]
rules: anything
";

#[test]
fn an_entry_is_resolved_with_the_words_of_the_policy() {
    for (entry, expected) in [
        ("ssh-jump", Ok("ssh-jump in tcp 2")),
        ("backup", Ok("backup out tcp 1")),
        ("dns-client", Ok("dns-client out udp, dns-client out tcp")),
        (r#"{ "extends": "ssh-admin", "from": ["10.1.1.1"] }"#, Ok("ssh-admin in tcp 1")),
        (r#"{ "extends": "ssh-jump", "from": ["$jump", "10.1.1.1"], "ports": [2222] }"#, Ok("ssh-jump in tcp 3")),
        (
            r#"{ "name": "api", "direction": "out", "protocol": "tcp", "remote": ["10.9.0.0/16"], "remote_ports": [443] }"#,
            Ok("api out tcp 1"),
        ),
        ("ssh-admin", Err("profile ssh-admin does not load without from (networks or names)")),
        (r#"{ "extends": "ssh-admin" }"#, Err("profile ssh-admin does not load without from (networks or names)")),
        (r#"{ "extends": "ssh-admin", "form": ["10.1.1.1"] }"#, Err("\"form\" is no parameter of profile ssh-admin")),
        ("ssh-jumb", Err("there is no profile \"ssh-jumb\"")),
        (r#"{ "name": "api", "direction": "up", "protocol": "tcp", "remote": "any" }"#, Err("direction")),
        (r#"{ "name": "all", "direction": "out", "protocol": "any", "remote": "any" }"#, Err("isolates from nothing")),
        ("[ssh-jump]", Err("name a profile")),
    ] {
        let words = Vocabulary::of(POLICY).expect("sound").resolve(entry);
        match (words, expected) {
            (Ok(found), Ok(expected)) => {
                let remotes = |one: &portcullis_schemas::exclusion::Exclusion| match &one.remote {
                    portcullis_schemas::exclusion::Remote::Cidrs(networks) => format!(" {}", networks.len()),
                    _ => String::new(),
                };
                let one = |one: &portcullis_schemas::exclusion::Exclusion| {
                    format!(
                        "{} {} {}{}",
                        one.name,
                        if one.direction == portcullis_schemas::exclusion::Direction::In { "in" } else { "out" },
                        one.protocol,
                        remotes(one)
                    )
                };
                assert_eq!(found.iter().map(one).collect::<Vec<_>>().join(", "), expected, "{entry}");
            }
            (Err(errors), Err(expected)) => assert!(errors[0].message.contains(expected), "{entry}: {errors:?}"),
            (found, _) => panic!("{entry}: {found:?}"),
        }
    }
}

#[test]
fn profiles_are_listed_with_what_they_need_and_what_they_let_pass() {
    let views = Vocabulary::of(POLICY).expect("sound").profiles();
    assert_eq!(views[0].name, "backup");
    assert!(views[0].is_own && views[1].name == "ssh-jump" && !views[2].is_own);
    let ssh = views.iter().find(|view| view.name == "ssh-admin").expect("a standard one");
    assert_eq!(ssh.parameters, [("from".to_owned(), "networks or names", true), ("ports".to_owned(), "ports", false)]);
    assert_eq!(ssh.exclusions, None);
    let jump = &views[1];
    assert_eq!((jump.parameters[0].2, jump.exclusions.as_ref().map(Vec::len)), (false, Some(1)));
    assert_eq!(Vocabulary::default().profiles().len() + 2, views.len());
}

#[test]
fn a_policy_whose_lists_are_broken_has_no_words() {
    let errors = Vocabulary::of("lists: { a: [[1]] }").err().expect("refused");
    assert_eq!((errors[0].line, errors.len()), (1, 1), "{errors:?}");
}
