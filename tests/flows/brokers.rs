//! Brokers as hosts have them: by IPv6 alone, by a name that moves, behind a tunnel.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use anyhow::ensure;
use portcullis_dev::{AgentConfig, BROKER_PORT, HUB_V4, HUB_V6};
use portcullis_schemas::Stream;
use portcullis_schemas::events::{Inventory, Level, Posture, State};
use portcullis_tests::place::program;
use portcullis_tests::relay::Relay;
use portcullis_tests::until::until;
use portcullis_tests::world::{POLICY, World, said};

const NAME: &str = "broker.portcullis.test";
/// Addresses of the hub that nobody has.
const PLACES: [&str; 3] = ["10.213.0.241", "10.213.0.242", "fd00:213::241"];
/// The hub's end of a tunnel.
const FAR: &str = "10.77.0.1";

#[tokio::test]
async fn a_broker_that_has_ipv6_alone_is_kept_and_found_again_while_isolated() -> anyhow::Result<()> {
    let mut world = World::start(1, Some(POLICY)).await?;
    restart(&world, &format!("nats://[{HUB_V6}]:{BROKER_PORT}"), &[])?;
    said(&world.verb(&["isolate", "h1"])?, 0)?;
    let rules = world.rules(1)?;
    ensure!(set(&rules, "control6").contains(&HUB_V6.to_string()) && !set(&rules, "control4").contains("elements"), "{rules}");
    world.nats.kill9()?;
    world.nats.start_again().await?;
    said(&world.verb(&["release", "h1", "--wait", "60s"])?, 0)?;
    ensure!(world.enforced(1)? == Posture::Open);
    Ok(())
}

#[tokio::test]
async fn a_broker_that_moves_to_another_address_is_found_there_while_isolated() -> anyhow::Result<()> {
    let (world, hosts) = named().await?;
    let mut relay = Some(relay(&world, PLACES[0])?);
    point(&hosts, &PLACES[..1])?;
    restart(&world, &format!("nats://{NAME}:{BROKER_PORT}"), &[])?;
    said(&world.verb(&["isolate", "h1", "--wait", "60s"])?, 0)?;
    ensure!(set(&world.rules(1)?, "control4").contains(PLACES[0]));
    // To IPv4, and from there to an address of the other family.
    for (from, to, longer) in [(PLACES[0], PLACES[1], "9h"), (PLACES[1], PLACES[2], "10h")] {
        relay.take();
        point(&hosts, &[to])?;
        relay = Some(self::relay(&world, to)?);
        until("the control channel has moved", Duration::from_secs(60), || async {
            let rules = world.rules(1)?;
            Ok((rules.contains(&format!("{to} .")) && !rules.contains(&format!("{from} ."))).then_some(()))
        })
        .await?;
        ensure!(world.enforced(1)? == Posture::Isolated);
        // An order comes by the new way, and is answered.
        let orders = world.bus.orders("h1").await?.len();
        said(&world.verb(&["isolate", "h1", "--for", longer, "--wait", "60s"])?, 0)?;
        ensure!(world.bus.orders("h1").await?.len() > orders);
    }
    said(&world.verb(&["release", "h1", "--wait", "60s"])?, 0)?;
    ensure!(world.enforced(1)? == Posture::Open);
    Ok(())
}

#[tokio::test]
async fn of_several_brokers_one_is_enough_and_all_are_pinned() -> anyhow::Result<()> {
    let (world, hosts) = named().await?;
    point(&hosts, &[PLACES[1], PLACES[2]])?;
    let second = relay(&world, PLACES[2])?;
    let urls = format!("nats://{}:{BROKER_PORT},nats://{NAME}:{BROKER_PORT}", PLACES[0]);
    restart(&world, &urls, &[])?;
    said(&world.verb(&["isolate", "h1", "--wait", "60s"])?, 0)?;
    let rules = world.rules(1)?;
    ensure!(PLACES[..2].iter().all(|place| set(&rules, "control4").contains(place)), "{rules}");
    ensure!(set(&rules, "control6").contains(PLACES[2]), "{rules}");
    let first = relay(&world, PLACES[0])?;
    drop(second);
    said(&world.verb(&["release", "h1", "--wait", "60s"])?, 0)?;
    drop(first);
    Ok(())
}

#[tokio::test]
async fn a_host_whose_broker_is_behind_a_tunnel_does_not_lock_itself_out() -> anyhow::Result<()> {
    let world = World::start(1, Some(POLICY)).await?;
    tunnel(&world)?;
    let _relay = relay(&world, FAR)?;
    let url = format!("nats://{FAR}:{BROKER_PORT}");
    restart(&world, &url, &[])?;
    until("the host says that it would hold nothing", Duration::from_secs(60), || async {
        let known = world.bus.all::<Inventory>(Stream::Inventory, &world.bus.prefix.of(Stream::Inventory, "h1")).await?;
        Ok(known.last().filter(|found| found.event.data.hello.level == Level::None).map(|_| ()))
    })
    .await?;
    let output = world.verb(&["isolate", "h1", "--wait", "60s"])?;
    ensure!(output.status.code() == Some(1), "{output:?}");
    let refused = until("the refusal is told", Duration::from_secs(20), || async { last(&world).await }).await?;
    ensure!(refused.posture == Posture::Open && refused.level == Level::None, "{refused:?}");
    ensure!(refused.error.as_ref().is_some_and(|error| error.contains("through a tunnel (vx0 (vxlan))")), "{refused:?}");
    ensure!(world.enforced(1)? == Posture::Open);
    let status = world.agent_verb(1, "status", &[])?;
    ensure!(said(&status, 0)?.contains("--allow-tunnel"), "{status:?}");
    // The same order is taken as soon as there is another way.
    restart(&world, &format!("{url},nats://{HUB_V4}:{BROKER_PORT}"), &[])?;
    until("the order is obeyed", Duration::from_secs(60), || async {
        Ok((world.enforced(1)? == Posture::Isolated).then_some(()))
    })
    .await?;
    // And what stands is not opened because the way is a tunnel again.
    restart(&world, &url, &[])?;
    until("the agent runs again", Duration::from_secs(20), || async {
        Ok(world.agent_verb(1, "status", &[])?.status.success().then_some(()))
    })
    .await?;
    ensure!(world.enforced(1)? == Posture::Isolated);
    said(&world.agent_verb(1, "release", &[])?, 0)?;
    ensure!(world.enforced(1)? == Posture::Open);
    Ok(())
}

#[tokio::test]
async fn who_allows_a_tunnel_is_isolated_and_cut_off() -> anyhow::Result<()> {
    let world = World::start(1, Some(POLICY)).await?;
    tunnel(&world)?;
    let _relay = relay(&world, FAR)?;
    restart(&world, &format!("nats://{FAR}:{BROKER_PORT}"), &[("PORTCULLIS_ALLOW_TUNNEL", "true")])?;
    world.verb(&["isolate", "h1", "--no-wait"])?;
    until("it is isolated", Duration::from_secs(60), || async { Ok((world.enforced(1)? == Posture::Isolated).then_some(())) })
        .await?;
    until("and has no way to the broker", Duration::from_secs(60), || async {
        Ok(said(&world.agent_verb(1, "status", &[])?, 0)?.contains("not connected").then_some(()))
    })
    .await
}

/// An agent that finds a broker's name in a file of this test's.
async fn named() -> anyhow::Result<(World, std::path::PathBuf)> {
    let mut world = World::bare().await?;
    std::fs::write(world.policy(), POLICY)?;
    world.orchestrate(&[]).await?;
    let (hosts, wrapper) = (world.log("hosts"), world.log("agent"));
    point(&hosts, &[&HUB_V4.to_string()])?;
    let script = "mount --bind \"$0\" /etc/hosts && exec \"$@\"";
    let agent = program("portcullis-agent")?;
    let text = format!("#!/bin/sh\nexec unshare --mount sh -c '{script}' {} {} \"$@\"\n", hosts.display(), agent.display());
    std::fs::write(&wrapper, text)?;
    std::fs::set_permissions(&wrapper, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    world.host_with(1, AgentConfig::new(wrapper)).await?;
    for place in PLACES {
        let (prefix, flags) = if place.contains(':') { (64, "nodad") } else { (24, "") };
        hub(&world, &format!("ip addr add {place}/{prefix} dev br0 {flags}"))?;
    }
    Ok((world, hosts))
}

/// In place: the agent has this very file mounted.
fn point(hosts: &Path, places: &[&str]) -> anyhow::Result<()> {
    let lines: String = places.iter().map(|place| format!("{place} {NAME}\n")).collect();
    Ok(std::fs::write(hosts, lines)?)
}

fn relay(world: &World, place: &str) -> anyhow::Result<Relay> {
    let to = SocketAddr::from(([127, 0, 0, 1], world.nats.port));
    Relay::open(world.lab().hub(), SocketAddr::new(place.parse::<IpAddr>()?, BROKER_PORT), to)
}

fn restart(world: &World, nats: &str, env: &[(&str, &str)]) -> anyhow::Result<()> {
    world.lab().agent(1).kill9()?;
    let env: Vec<_> = [("PORTCULLIS_NATS", nats)].into_iter().chain(env.iter().copied()).collect();
    Ok(world.lab().agent(1).start(&env)?)
}

/// A VXLAN between host and hub, over the wire that both have.
fn tunnel(world: &World) -> anyhow::Result<()> {
    let host = world.lab().host(1).ipv4;
    hub(
        world,
        &format!(
            "ip link add vx0 type vxlan id 7 remote {host} dstport 4789 dev br0; ip addr add {FAR}/24 dev vx0; ip link set vx0 up"
        ),
    )?;
    let script = format!(
        "ip link add vx0 type vxlan id 7 remote {HUB_V4} dstport 4789 dev eth0; ip addr add 10.77.0.2/24 dev vx0; ip link set vx0 up"
    );
    let output = world.in_host(1, &format!("set -e; {script}"))?;
    ensure!(output.status.success(), "{output:?}");
    Ok(())
}

fn hub(world: &World, script: &str) -> anyhow::Result<()> {
    let output = world.lab().hub().command("sh").args(["-ec", script]).output()?;
    ensure!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

async fn last(world: &World) -> anyhow::Result<Option<State>> {
    Ok(world.bus.states("h1").await?.pop().map(|state| state.event.data))
}

/// The lines of a set.
fn set<'a>(rules: &'a str, name: &str) -> &'a str {
    rules.split_once(&format!("set {name} {{")).and_then(|(_, rest)| rest.split_once("\n\t}")).map_or("", |(set, _)| set)
}
