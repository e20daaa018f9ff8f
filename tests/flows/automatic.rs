//! Automatic isolation: by the policy, with its deadline, and back.

use std::time::Duration;

use anyhow::{Context, ensure};
use chrono::TimeDelta;
use portcullis_dev::{OUTSIDE_V4, OUTSIDE_V6};
use portcullis_schemas::Stream;
use portcullis_schemas::events::{Decision, HostClaim, InputKind, Inventory, Origin, Posture, Reason, StateCause, Verdict};
use portcullis_tests::bus::{by_id, ransomware};
use portcullis_tests::probe::{Kind, Way};
use portcullis_tests::until::until;
use portcullis_tests::world::{POLICY, World, said};

#[tokio::test]
async fn a_detection_isolates_its_host_for_exactly_8_hours_when_nothing_is_said() -> anyhow::Result<()> {
    let world = World::start(2, Some(POLICY)).await?;
    let ways = |n: usize| {
        let host = world.lab().host(n);
        [
            Way::new("out", &host.netns, OUTSIDE_V4, Kind::Tcp),
            Way::new("out, IPv6", &host.netns, OUTSIDE_V6, Kind::Udp),
            Way::new("in", world.lab().outside(), host.ipv4, Kind::Tcp),
            Way::new("forwarded", &host.container, OUTSIDE_V4, Kind::Tcp),
        ]
    };
    for way in ways(1) {
        ensure!(way.open().await, "{} is closed while the host is open", way.name);
    }
    let id = world.bus.detect("siem", ransomware(by_id("h1"))).await?;
    let state = world.bus.state("h1", 1, Posture::Isolated).await?;
    for way in ways(1) {
        ensure!(!way.open().await, "{} is open while the host is isolated", way.name);
    }
    for way in ways(2) {
        ensure!(way.open().await, "{} of the other host is closed", way.name);
    }

    let orders = world.bus.orders("h1").await?;
    ensure!(orders.len() == 1, "{} orders", orders.len());
    let order = &orders[0].event;
    ensure!(order.data.release_at == Some(order.data.issued_at + TimeDelta::hours(8)), "{:?}", order.data.release_at);
    ensure!(order.data.holds.len() == 1 && order.data.holds[0].origin == Origin::Automatic);
    ensure!(order.data.holds[0].rule.as_deref() == Some("ransomware") && order.data.holds[0].causes[0].id == id);
    let decision = world.bus.decision(&id).await?;
    ensure!(
        decision.verdict == Verdict::Isolate && decision.reason == Reason::Rule && decision.generation == Some(1),
        "{decision:?}"
    );
    ensure!(decision.facts.policy.is_some() && decision.facts.counts.hosts == 2, "{:?}", decision.facts);

    // The trace and the incident of the detection are carried to the last state event.
    ensure!(order.traceparent.is_some() && state.event.traceparent == order.traceparent, "{:?}", state.event.traceparent);
    ensure!(state.event.correlation.as_deref() == Some(order.data.incident.as_str()), "{:?}", state.event.correlation);
    ensure!(state.event.data.cause == StateCause::Order && state.event.data.evidence.readback_ok, "{:?}", state.event.data);
    Ok(())
}

#[tokio::test]
async fn the_deadline_opens_the_host_and_leaves_its_rules_as_they_were() -> anyhow::Result<()> {
    let policy = POLICY.replace("then: isolate", "then: isolate\n    release_after: 2s");
    let world = World::start(1, Some(&policy)).await?;
    let foreign =
        "table ip foreign { chain input { type filter hook input priority 0; policy accept; tcp dport 9 counter drop; }; }";
    let mut nft = world.lab().host(1).netns.command("nft");
    ensure!(nft.arg(foreign).status()?.success());
    let before = world.ruleset(1)?;
    world.bus.detect("siem", ransomware(by_id("h1"))).await?;
    world.bus.state("h1", 1, Posture::Isolated).await?;
    ensure!(world.ruleset(1)? != before);
    world.bus.state("h1", 2, Posture::Open).await?;
    ensure!(world.ruleset(1)? == before, "{}", world.ruleset(1)?);
    let orders = world.bus.orders("h1").await?;
    let due = orders[0].event.data.release_at.context("a deadline")?;
    ensure!(orders[1].at >= due, "released at {}, due at {due}", orders[1].at);
    Ok(())
}

#[tokio::test]
async fn hosts_are_found_by_name_and_address_and_never_by_loopback() -> anyhow::Result<()> {
    let world = World::start(2, Some(POLICY)).await?;
    let common = vec!["127.0.0.1".into(), "::1".into(), "fe80::1".into()];
    let unknown = [
        HostClaim { ips: common.clone(), ..HostClaim::default() },
        HostClaim { ips: vec!["192.0.2.1".into()], ..HostClaim::default() },
        HostClaim { hostname: Some("nobody.example".into()), ..HostClaim::default() },
        // Two hosts at once are none.
        HostClaim {
            ips: vec![world.lab().host(1).ipv4.to_string(), world.lab().host(2).ipv4.to_string()],
            ..HostClaim::default()
        },
    ];
    for claim in unknown {
        let id = world.bus.detect("siem", ransomware(claim)).await?;
        let decision = world.bus.decision(&id).await?;
        ensure!(decision.host.is_none() && matches!(decision.reason, Reason::Unresolved { .. }), "{decision:?}");
    }
    ensure!(world.bus.orders("*").await?.is_empty());
    let mut ips = common;
    ips.push(format!("::ffff:{}", world.lab().host(2).ipv4));
    let id = world.bus.detect("siem", ransomware(HostClaim { ips, ..HostClaim::default() })).await?;
    let decision = world.bus.decision(&id).await?;
    ensure!(decision.host.as_ref().is_some_and(|host| host.as_str() == "h2"), "{decision:?}");
    let id = world.bus.detect("siem", ransomware(HostClaim { hostname: Some("H1.".into()), ..HostClaim::default() })).await?;
    let decision = world.bus.decision(&id).await?;
    ensure!(decision.host.as_ref().is_some_and(|host| host.as_str() == "h1"), "{decision:?}");
    Ok(())
}

#[tokio::test]
async fn an_address_that_each_host_has_on_a_bridge_of_its_own_isolates_nobody() -> anyhow::Result<()> {
    let world = World::start(3, Some(POLICY)).await?;
    const BRIDGE: &str = "172.17.0.1";
    for n in 1..=3 {
        let made = world.in_host(n, "ip link add docker0 type bridge && ip addr add 172.17.0.1/16 dev docker0")?;
        ensure!(made.status.success(), "{made:?}");
        // An agent says what it has when it connects.
        world.lab().agent(n).stop().await?;
        world.lab().agent(n).start(&[])?;
        let subject = world.bus.prefix.of(Stream::Inventory, &format!("h{n}"));
        until("the inventory knows the bridge", Duration::from_secs(30), || async {
            let last = world.bus.all::<Inventory>(Stream::Inventory, &subject).await?.pop().map(|found| found.event.data);
            Ok(last.filter(|last| last.hello.internal_ips.iter().any(|ip| ip == BRIDGE)))
        })
        .await?;
    }
    let own = world.lab().host(2).ipv4.to_string();
    let by = |ips: &[&str]| ransomware(HostClaim { ips: ips.iter().map(ToString::to_string).collect(), ..HostClaim::default() });
    let id = world.bus.detect("siem", by(&[BRIDGE])).await?;
    let decision = world.bus.decision(&id).await?;
    ensure!(decision.verdict == Verdict::Ask && decision.host.is_none(), "{decision:?}");
    ensure!(matches!(&decision.reason, Reason::Unresolved { candidates, .. } if candidates.len() == 3), "{decision:?}");
    said(&world.verb(&["isolate", BRIDGE])?, 3)?;
    ensure!(world.bus.orders("*").await?.is_empty());
    // Beside an address of one host alone it hides nothing, and a verb finds that host by the same names.
    let id = world.bus.detect("siem", by(&[&own, BRIDGE])).await?;
    let decision = world.bus.decision(&id).await?;
    ensure!(decision.host.as_ref().is_some_and(|host| host.as_str() == "h2"), "{decision:?}");
    let inventory = world.bus.all::<Inventory>(Stream::Inventory, &world.bus.prefix.of(Stream::Inventory, "h2")).await?;
    let full = format!("{}.example.org", inventory[0].event.data.hello.hostname);
    let id = world.bus.detect("siem", ransomware(HostClaim { hostname: Some(full.clone()), ..HostClaim::default() })).await?;
    let decision = world.bus.decision(&id).await?;
    ensure!(decision.host.as_ref().is_some_and(|host| host.as_str() == "h2"), "{full}: {decision:?}");
    for name in [&own, &full] {
        ensure!(said(&world.verb(&["show", name])?, 0)?.starts_with("h2"), "{name}");
    }
    Ok(())
}

#[tokio::test]
async fn audit_decides_everything_and_orders_nothing() -> anyhow::Result<()> {
    let world = World::start(1, Some(&POLICY.replace("version: 1", "version: 1\nmode: audit"))).await?;
    let id = world.bus.detect("siem", ransomware(by_id("h1"))).await?;
    let decision = world.bus.decision(&id).await?;
    ensure!(decision.reason == Reason::Audit { would: Verdict::Isolate }, "{decision:?}");
    ensure!(world.bus.orders("h1").await?.is_empty() && world.enforced(1)? == Posture::Open);
    Ok(())
}

#[tokio::test]
async fn a_retraction_opens_what_only_its_detection_held() -> anyhow::Result<()> {
    let world = World::start(1, Some(POLICY)).await?;
    let id = world.bus.detect("siem", ransomware(by_id("h1"))).await?;
    world.bus.state("h1", 1, Posture::Isolated).await?;
    // Another sender cannot take it back.
    let mut retraction = ransomware(by_id("h1"));
    retraction.retracts = Some(id);
    let other = world.bus.detect("edr", retraction.clone()).await?;
    let decision = world.bus.decision(&other).await?;
    ensure!(decision.verdict == Verdict::Ignore, "{decision:?}");
    let own = world.bus.detect("siem", retraction).await?;
    let decision = world.bus.decision(&own).await?;
    ensure!(decision.verdict == Verdict::Release && decision.reason == Reason::Retracted, "{decision:?}");
    world.bus.state("h1", decision.generation.context("an order")?, Posture::Open).await?;
    Ok(())
}

#[tokio::test]
async fn what_fell_due_while_the_orchestrator_was_down_goes_out_when_it_starts() -> anyhow::Result<()> {
    let policy = POLICY.replace("then: isolate", "then: isolate\n    release_after: 2s");
    let mut world = World::bare().await?;
    std::fs::write(world.policy(), policy)?;
    // However long it takes until it is killed, it says nothing itself.
    world.orchestrate(&[("PORTCULLIS_STOP_AT", "scheduler.due")]).await?;
    world.host(1).await?;
    world.bus.detect("siem", ransomware(by_id("h1"))).await?;
    world.bus.state("h1", 1, Posture::Isolated).await?;
    world.orchestrator().process.kill9()?;
    let due = world.bus.orders("h1").await?[0].event.data.release_at.context("a deadline")?;
    until("the deadline has passed", Duration::from_secs(10), || async move { Ok((chrono::Utc::now() > due).then_some(())) })
        .await?;
    ensure!(world.enforced(1)? == Posture::Isolated, "opened without an order");
    world.orchestrate(&[]).await?;
    world.bus.state("h1", 2, Posture::Open).await?;
    let releases = world.bus.raw(Stream::Releases, &world.bus.prefix.all(Stream::Releases)).await?;
    ensure!(releases.len() == 1, "{} were said", releases.len());
    let released = |decision: &Decision| decision.input.kind == InputKind::ReleaseDue && decision.verdict == Verdict::Release;
    world.bus.decided("the release is decided", released).await?;
    Ok(())
}
