//! What people read: warnings of a policy against what is in use, and hostile text on terminals.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use portcullis_schemas::terminal::is_hostile;
use portcullis_tests::bus::{by_id, ransomware};
use portcullis_tests::place::program;
use portcullis_tests::until::until;
use portcullis_tests::world::{POLICY, World, said};

const HOSTILE: &str = "gpj.\u{202e}exe\u{2028}line\u{1b}[2J\u{9b}1m\u{200b}\u{e0041}";

#[tokio::test]
async fn a_policy_is_compared_with_the_senders_and_hosts_that_the_broker_knows() -> anyhow::Result<()> {
    let world = World::start(1, Some(POLICY)).await?;
    let id = world.bus.detect("edr.eu", ransomware(by_id("nobody"))).await?;
    world.bus.decision(&id).await?;
    let file = world.folder.path().join("checked.yaml");
    let rules = "  - { name: a, match: { source: [edr.eu, elastic], host.role: no-such-role }, when: 'host.label.tier == \"web\"', then: isolate }\n";
    std::fs::write(&file, format!("version: 1\nrules:\n{rules}  - {{ name: rest, then: observe }}\n"))?;
    let file = file.to_str().context("a path in UTF-8")?;
    let checked = world.verb(&["policy", "check", file])?;
    let warned = String::from_utf8_lossy(&checked.stderr).into_owned();
    said(&checked, 0)?;
    for words in [
        "line 3, column 42: no detection came from source \"elastic\" yet; came from \"edr.eu\"",
        "has the role \"no-such-role\"",
        "a label \"tier\"",
    ] {
        ensure!(warned.contains(words), "{words}: {warned}");
    }
    ensure!(!warned.contains("source \"edr.eu\""), "{warned}");
    let json: serde_json::Value = serde_json::from_str(&said(&world.verb(&["policy", "check", file, "--json"])?, 0)?)?;
    ensure!(json["warnings"].as_array().is_some_and(|warnings| warnings.len() == 3), "{json}");
    // A broker that is asked for and away is said; a policy is checked without one all the same.
    let away = Command::new(program("portcullis")?).args(["policy", "check", file, "--nats", "nats://127.0.0.1:1"]).output()?;
    let warned = String::from_utf8_lossy(&away.stderr).into_owned();
    ensure!(away.status.success() && warned.contains("are not compared"), "{away:?}");
    let alone = Command::new(program("portcullis")?).args(["policy", "check", file]).env_remove("PORTCULLIS_NATS").output()?;
    ensure!(alone.status.success() && alone.stderr.is_empty(), "{alone:?}");
    Ok(())
}

#[tokio::test]
async fn no_text_of_an_order_or_an_argument_acts_on_a_terminal() -> anyhow::Result<()> {
    let world = World::start(1, Some(POLICY)).await?;
    said(&world.verb(&["isolate", "h1", "--reason", HOSTILE, "--incident", "i", "--wait", "30s"])?, 0)?;
    for args in [&[][..], &["--json"]] {
        let status = until("the agent has the reason", Duration::from_secs(10), || async {
            Ok(Some(said(&world.agent_verb(1, "status", args)?, 0)?).filter(|status| status.contains("gpj.")))
        })
        .await?;
        harmless("status", &status)?;
    }
    for verb in ["exclusions", "doctor"] {
        let shown = world.agent_verb(1, verb, &[])?;
        harmless(verb, &String::from_utf8(shown.stdout)?)?;
    }
    for (name, args) in [
        ("portcullis", &["show", HOSTILE][..]),
        ("portcullis", &["isolate", "h1", "--for", HOSTILE]),
        ("portcullis", &["policy", "check", HOSTILE]),
        ("portcullis-agent", &["status", "--host-id", HOSTILE]),
        ("portcullis-agent", &["render", "--order", HOSTILE]),
        ("portcullis-agent", &[HOSTILE]),
    ] {
        let shown = Command::new(program(name)?).args(args).env("PORTCULLIS_NATS", world.nats.url()).output()?;
        ensure!(!shown.status.success(), "{name} {args:?}: {shown:?}");
        harmless(&format!("{name} {args:?}"), &String::from_utf8(shown.stderr)?)?;
    }
    Ok(())
}

fn harmless(what: &str, text: &str) -> anyhow::Result<()> {
    let found: Vec<char> = text.chars().filter(|c| *c != '\n' && is_hostile(*c)).collect();
    ensure!(found.is_empty() && !text.is_empty(), "{what}: {found:?} in {text:?}");
    Ok(())
}
