//! Somebody with root on an isolated host changes what isolates it: it is put right at once, and said with who it was.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, ensure};
use portcullis_schemas::Stream;
use portcullis_schemas::events::{Level, Notice, NoticeKind, Posture, State, StateCause, Tamper};
use portcullis_tests::until::until;
use portcullis_tests::world::{POLICY, World, said};

/// What is done, and a word of what must be said of it.
const DEEDS: &[(&str, &str)] = &[
    ("nft add table inet portcullis '{ flags dormant; }'", "the table portcullis is"),
    ("nft flush ruleset", "missing"),
    ("nft delete table inet portcullis", "missing"),
    ("nft delete table netdev portcullis", "netdev portcullis is missing"),
    ("nft flush chain inet portcullis output", "chain output lacks"),
    ("nft flush table netdev portcullis", "chain netdev"),
    ("nft insert rule inet portcullis input accept", "chain input also has"),
    ("nft insert rule netdev portcullis egress accept", "chain netdev egress also has"),
    ("nft flush set inet portcullis control4", "set control4 lacks"),
    ("nft add element inet portcullis control4 '{ 203.0.113.9 . 443 }'", "set control4 also has"),
    ("nft add chain inet portcullis output '{ policy accept; }'", "chain output is"),
    ("nft add chain inet portcullis mine", "chain mine is not ours"),
    // What a distribution's nftables.service loads, and what reloads of common firewalls amount to.
    (
        "printf 'flush ruleset\\ntable inet filter {\\n chain input { type filter hook input priority filter; }\\n}\\n' | nft -f -",
        "missing",
    ),
];

#[tokio::test]
async fn what_somebody_changes_is_put_right_and_said() -> anyhow::Result<()> {
    let world = unlocked().await?;
    said(&world.verb(&["isolate", "h1"])?, 0)?;
    let before = world.rules(1)?;
    for (deed, word) in DEEDS {
        let told: BTreeSet<String> = tampers(&world).await?.into_iter().map(|(id, _)| id).collect();
        ran(&world.in_host(1, deed)?)?;
        until(&format!("restored after {deed}"), Duration::from_secs(10), || async {
            Ok((world.rules(1)? == before).then_some(()))
        })
        .await?;
        let tamper = until(&format!("a word about {deed}"), Duration::from_secs(30), || async {
            Ok(tampers(&world).await?.into_iter().find(|(id, _)| !told.contains(id)).map(|(_, tamper)| tamper))
        })
        .await?;
        println!("{deed}: {:?} by {:?}, restored in {:?} ms", tamper.what, tamper.by, tamper.restored_in_ms);
        ensure!(tamper.restored && tamper.restored_in_ms.is_some(), "{tamper:?}");
        ensure!(tamper.what.iter().any(|what| what.contains(word)), "{deed}: {tamper:?}");
        ensure!(tamper.by.iter().any(|by| by.program == "nft" && by.pid > 0), "{deed}: {tamper:?}");
    }
    let notices = world.bus.all::<Notice>(Stream::Notices, &world.bus.prefix.of(Stream::Notices, "h1")).await?;
    ensure!(notices.iter().any(|found| found.event.data.kind == NoticeKind::Tamper), "{notices:?}");
    ensure!(world.enforced(1)? == Posture::Isolated);
    said(&world.verb(&["release", "h1"])?, 0)?;
    ensure!(world.enforced(1)? == Posture::Open);
    Ok(())
}

#[tokio::test]
async fn a_locked_table_is_not_changed_at_all_and_outlives_the_agent() -> anyhow::Result<()> {
    let world = World::start(1, Some(POLICY)).await?;
    said(&world.verb(&["isolate", "h1"])?, 0)?;
    let state = states(&world).await?.pop().context("a state")?;
    ensure!(state.evidence.table_locked, "this kernel has no lock: {state:?}");
    let before = world.rules(1)?;
    for (deed, _) in DEEDS {
        world.in_host(1, deed)?;
        ensure!(world.rules(1)? == before, "{deed}");
    }
    ensure!(tampers(&world).await?.is_empty());
    world.lab().agent(1).kill9()?;
    ensure!(rules_alone(&world.rules(1)?) == rules_alone(&before), "changed by the death of its owner");
    // Nobody's now. The agent that comes takes it over, says what it found, and has it to itself again.
    ran(&world.in_host(1, "nft insert rule inet portcullis input accept")?)?;
    world.lab().agent(1).start(&[])?;
    until("the next agent has put it right", Duration::from_secs(10), || async {
        Ok((rules_alone(&world.rules(1)?) == rules_alone(&before)).then_some(()))
    })
    .await?;
    until("and it is locked again", Duration::from_secs(10), || async {
        Ok((!world.in_host(1, "nft insert rule inet portcullis input accept")?.status.success()).then_some(()))
    })
    .await?;
    said(&world.verb(&["release", "h1"])?, 0)?;
    ensure!(world.enforced(1)? == Posture::Open);
    Ok(())
}

/// Without what nft says of a table's owner.
fn rules_alone(rules: &str) -> String {
    rules
        .lines()
        .filter(|line| !line.starts_with("table ") && !line.trim_start().starts_with("flags owner") && line.trim() != "flags")
        .collect()
}

/// A host whose kernel does not lock the tables.
async fn unlocked() -> anyhow::Result<World> {
    let world = World::start(1, Some(POLICY)).await?;
    world.lab().agent(1).kill9()?;
    world.lab().agent(1).start(&[("PORTCULLIS_LOCK", "off")])?;
    Ok(world)
}

#[tokio::test]
async fn a_device_that_comes_is_covered_and_one_that_leaves_is_said() -> anyhow::Result<()> {
    let world = World::start(1, Some(POLICY)).await?;
    said(&world.verb(&["isolate", "h1"])?, 0)?;
    let states = states(&world).await?;
    ensure!(states.last().is_some_and(|state| state.level == Level::Full), "{states:?}");
    ran(&world.in_host(1, "ip link add new0 type veth peer name new1")?)?;
    until("the new devices are covered", Duration::from_secs(10), || async {
        let rules = world.rules(1)?;
        Ok(["\"new0\"", "\"new1\""].iter().all(|name| rules.matches(name).count() == 2).then_some(()))
    })
    .await?;
    ran(&world.in_host(1, "ip link del new0")?)?;
    let tamper = until("a word about the device", Duration::from_secs(30), || async {
        Ok(tampers(&world).await?.into_iter().map(|(_, tamper)| tamper).next_back())
    })
    .await?;
    ensure!(tamper.what.iter().any(|what| what.contains("new")), "{tamper:?}");
    until("what it left behind is gone", Duration::from_secs(10), || async {
        Ok((!world.rules(1)?.contains("new0")).then_some(()))
    })
    .await
}

#[tokio::test]
async fn a_storm_is_said_in_bounds_and_does_not_keep_the_agent_from_a_release() -> anyhow::Result<()> {
    let world = unlocked().await?;
    said(&world.verb(&["isolate", "h1"])?, 0)?;
    // Bounded: it ends by itself, however this test ends.
    let storm = "i=0; while [ $i -lt 2000 ]; do nft flush ruleset || :; i=$((i+1)); done";
    let storm = std::thread::scope(|scope| {
        let raging = scope.spawn(|| world.in_host(1, storm));
        let released = world.verb(&["release", "h1", "--wait", "60s"]);
        (raging.join(), released)
    });
    said(&storm.1?, 0)?;
    ensure!(world.enforced(1)? == Posture::Open);
    ensure!(tampers(&world).await?.len() < 20);
    Ok(())
}

fn ran(output: &std::process::Output) -> anyhow::Result<()> {
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

async fn states(world: &World) -> anyhow::Result<Vec<State>> {
    Ok(world.bus.states("h1").await?.into_iter().map(|found| found.event.data).collect())
}

/// What was said about tampering, with the events' ids.
async fn tampers(world: &World) -> anyhow::Result<Vec<(String, Tamper)>> {
    let states = world.bus.states("h1").await?.into_iter();
    let of_tamper = states.filter(|found| found.event.data.cause == StateCause::Tamper);
    Ok(of_tamper.filter_map(|found| Some((found.event.id, found.event.data.tamper?))).collect())
}
