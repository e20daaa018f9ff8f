//! Stand-by: one orchestrator leads, the others follow and take over, whatever becomes of the leader, with inputs that come all the while.

use std::time::Duration;

use anyhow::{Context, ensure};
use chrono::Utc;
use portcullis_schemas::events::{Notice, NoticeKind, State};
use portcullis_schemas::{Stream, Timestamp};
use portcullis_tests::bus::{Bus, event};
use portcullis_tests::place::unique;
use portcullis_tests::standby::{Standby, Traffic, check, last_term};
use portcullis_tests::until::until;
use portcullis_tests::world::{POLICY, World};
use rustix::process::Signal;

#[tokio::test]
async fn a_leader_that_is_killed_is_followed_by_one_of_two() -> anyhow::Result<()> {
    killed(1, 2).await
}

#[tokio::test]
async fn a_leader_that_is_killed_is_followed_by_one_of_three_on_a_cluster() -> anyhow::Result<()> {
    killed(3, 3).await
}

#[tokio::test]
async fn a_leader_that_is_paused_is_followed_by_another_and_follows_it() -> anyhow::Result<()> {
    paused(1, 3).await
}

#[tokio::test]
async fn a_leader_that_is_paused_is_followed_by_another_on_a_cluster() -> anyhow::Result<()> {
    paused(3, 2).await
}

#[tokio::test]
async fn a_leader_that_is_cut_off_from_the_broker_is_followed_by_another_and_follows_it() -> anyhow::Result<()> {
    cut_off(1, 3, &[false, true]).await
}

#[tokio::test]
async fn a_leader_that_is_cut_off_from_a_cluster_is_followed_by_another() -> anyhow::Result<()> {
    cut_off(3, 3, &[false]).await
}

#[tokio::test]
async fn a_broker_that_is_killed_and_comes_back_loses_nothing_with_three_orchestrators() -> anyhow::Result<()> {
    let (mut world, standby, traffic) = begin(1, 3).await?;
    for _ in 0..3 {
        let answered = world.bus.answered().await?.len();
        world.nats.kill9()?;
        world.nats.start_again().await?;
        let back = Utc::now();
        goes_on(&world.bus, answered).await?;
        println!("the broker was back: an input answered after {} ms", (Utc::now() - back).num_milliseconds());
    }
    standby.leader(&[]).await?;
    check(&world, &traffic.end().await?).await
}

/// Each server once: among them are the leaders of every stream, of the KV bucket and of the cluster itself.
#[tokio::test]
async fn each_server_of_a_cluster_is_killed_and_comes_back_and_nothing_is_lost() -> anyhow::Result<()> {
    let (mut world, standby, traffic) = begin(3, 3).await?;
    for n in 0..3 {
        let led = led_by(&world.bus, &world.servers().nth(n).context("a server")?.name).await?;
        let (answered, at) = (world.bus.answered().await?.len(), Utc::now());
        world.servers_mut().nth(n).context("a server")?.kill9()?;
        goes_on(&world.bus, answered).await?;
        follows_states(&world.bus, &format!("tampered-{n}")).await?;
        println!("states followed after {} ms", (Utc::now() - at).num_milliseconds());
        println!("server {n} killed, which led {led:?}: no input answered for {} ms", longest_gap(&world.bus, at).await?);
        world.servers_mut().nth(n).context("a server")?.start_again().await?;
        world.bus.is_whole().await?;
    }
    standby.leader(&[]).await?;
    check(&world, &traffic.end().await?).await
}

#[tokio::test]
async fn a_server_that_leads_orders_is_paused_and_wakes_and_nothing_is_lost() -> anyhow::Result<()> {
    let (world, standby, traffic) = begin(3, 3).await?;
    let orders = world.bus.prefix.stream(Stream::Orders);
    let name = leader_of(&world.bus, &orders).await?;
    let server = world.servers().find(|server| server.name == name).context("the leader of ORDERS")?;
    let (answered, at) = (world.bus.answered().await?.len(), Utc::now());
    server.signal(Signal::STOP)?;
    goes_on(&world.bus, answered).await?;
    println!("the server that led ORDERS was paused: no input answered for {} ms", longest_gap(&world.bus, at).await?);
    server.signal(Signal::CONT)?;
    world.bus.is_whole().await?;
    standby.leader(&[]).await?;
    check(&world, &traffic.end().await?).await
}

/// The longest time from `at` on in which no input was answered, in milliseconds.
async fn longest_gap(bus: &Bus, at: Timestamp) -> anyhow::Result<i64> {
    let (mut longest, mut last) = (0, at);
    for (stored, _) in bus.answered().await?.into_iter().filter(|(stored, _)| *stored > at) {
        longest = longest.max((stored - last).num_milliseconds());
        last = stored;
    }
    Ok(longest)
}

/// The names of the streams that a server leads.
async fn led_by(bus: &Bus, server: &str) -> anyhow::Result<Vec<&'static str>> {
    let mut led = Vec::new();
    for stream in Stream::ALL {
        if leader_of(bus, &bus.prefix.stream(stream)).await? == server {
            led.push(stream.token());
        }
    }
    if leader_of(bus, &format!("KV_{}", bus.prefix.bucket())).await? == server {
        led.push("the KV bucket");
    }
    Ok(led)
}

async fn leader_of(bus: &Bus, stream: &str) -> anyhow::Result<String> {
    until("the stream has a leader", Duration::from_secs(60), || async {
        let info = bus.context.get_stream(stream).await?.cached_info().clone();
        Ok(info.cluster.and_then(|cluster| cluster.leader))
    })
    .await
}

/// The leader follows what hosts say, whichever server it reads it from: a notice tells of tampering with this host.
async fn follows_states(bus: &Bus, host: &str) -> anyhow::Result<()> {
    until("the host is known", Duration::from_secs(60), || async { bus.know(host).await.map(Some) }).await?;
    let state: State = serde_json::from_value(serde_json::json!({
        "host": host, "generation": 0, "posture": "open", "level": "full", "enforced_at": Utc::now(), "evidence": {"readback_ok": true,
        "table_locked": true, "sockets_killed": 0, "flows_flushed": 0}, "cause": "tamper", "boot_id": "one", "agent_version": "0.1.0",
        "tamper": {"what": ["table gone"], "times": 1, "restored": true},
    }))?;
    let (subject, state) = (bus.prefix.of(Stream::States, host), event(format!("state-{}", unique()), "/test", state));
    until("its state is stored", Duration::from_secs(60), || async { bus.publish(subject.clone(), &state).await.map(Some) })
        .await?;
    let subject = bus.prefix.of(Stream::Notices, host);
    until("a notice tells of tampering", Duration::from_secs(60), || async {
        let notices = bus.all::<Notice>(Stream::Notices, &subject).await?;
        Ok(notices.iter().any(|found| found.event.data.kind == NoticeKind::Tamper).then_some(()))
    })
    .await
}

async fn begin(servers: usize, orchestrators: usize) -> anyhow::Result<(World, Standby, Traffic)> {
    let world = World::with_servers(servers).await?;
    std::fs::write(world.policy(), POLICY)?;
    let standby = Standby::start(&world, orchestrators).await?;
    let traffic = Traffic::start(&world).await?;
    goes_on(&world.bus, 0).await?;
    Ok((world, standby, traffic))
}

/// kill -9, three times, and another one in the place of each.
async fn killed(servers: usize, orchestrators: usize) -> anyhow::Result<()> {
    let (world, mut standby, traffic) = begin(servers, orchestrators).await?;
    for _ in 0..3 {
        let leader = standby.leader(&[]).await?;
        let (before, at) = (last_term(&world.bus).await?.0, Utc::now());
        standby.all[leader].orchestrator.process.kill9()?;
        taken_over(&world.bus, &standby, leader, "killed", at).await?;
        // Of several followers one tries, and none takes the lead from it again.
        ensure!(last_term(&world.bus).await?.0 == before + 1, "more than one took over");
        standby.replace(&world, leader).await?;
    }
    check(&world, &traffic.end().await?).await
}

/// SIGSTOP until another one has led for a while.
async fn paused(servers: usize, orchestrators: usize) -> anyhow::Result<()> {
    let (world, standby, traffic) = begin(servers, orchestrators).await?;
    for _ in 0..2 {
        let leader = standby.leader(&[]).await?;
        let at = Utc::now();
        standby.all[leader].orchestrator.process.signal(Signal::STOP)?;
        taken_over(&world.bus, &standby, leader, "paused", at).await?;
        let (term, _) = last_term(&world.bus).await?;
        standby.all[leader].orchestrator.process.signal(Signal::CONT)?;
        standby.follows(leader).await?;
        let answered = world.bus.answered().await?.len();
        goes_on(&world.bus, answered).await?;
        ensure!(last_term(&world.bus).await?.0 == term, "the woken one leads again");
    }
    check(&world, &traffic.end().await?).await
}

/// A partition that ends soon, with all that was sent meanwhile arriving late, and one that outlasts the connections.
async fn cut_off(servers: usize, orchestrators: usize, outlasting: &[bool]) -> anyhow::Result<()> {
    let (world, standby, traffic) = begin(servers, orchestrators).await?;
    for outlasts in outlasting {
        let leader = standby.leader(&[]).await?;
        let at = Utc::now();
        standby.all[leader].cut();
        taken_over(&world.bus, &standby, leader, "cut off", at).await?;
        let (term, _) = last_term(&world.bus).await?;
        if *outlasts {
            let orchestrator = &standby.all[leader].orchestrator;
            until("it misses its broker", Duration::from_secs(60), || async {
                Ok(orchestrator.readyz().await?.starts_with("broker unreachable").then_some(()))
            })
            .await?;
        }
        standby.all[leader].heal();
        standby.follows(leader).await?;
        let answered = world.bus.answered().await?.len();
        goes_on(&world.bus, answered).await?;
        ensure!(last_term(&world.bus).await?.0 == term, "the one that was cut off leads again");
    }
    check(&world, &traffic.end().await?).await
}

/// Another one leads, and inputs are answered. Prints how long after `at` the term began.
async fn taken_over(bus: &Bus, standby: &Standby, leader: usize, what: &str, at: Timestamp) -> anyhow::Result<()> {
    let next = standby.leader(&[leader]).await?;
    let (term, began) = last_term(bus).await?;
    let answered = bus.answered().await?.len();
    goes_on(bus, answered).await?;
    let first = bus.answered().await?.into_iter().map(|(stored, _)| stored).find(|stored| *stored > began);
    let answered = first.map_or(0, |first| (first - at).num_milliseconds());
    println!(
        "{what}: {next} after {leader}, term {term} after {} ms, an input answered after {answered} ms",
        (began - at).num_milliseconds()
    );
    Ok(())
}

/// More is answered than that.
async fn goes_on(bus: &Bus, answered: usize) -> anyhow::Result<()> {
    until("inputs are answered", Duration::from_secs(60), || async {
        Ok((bus.answered().await?.len() > answered + 5).then_some(()))
    })
    .await
}
