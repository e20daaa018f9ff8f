//! Brokers that are reached at an address of the host itself: a leaf node, a relay of bytes, a redirection, and the broker itself.

use std::net::SocketAddr;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use portcullis_dev::{BROKER_PORT, HUB_V4};
use portcullis_schemas::events::{Action, Posture, State, StateCause};
use portcullis_tests::bus::ask;
use portcullis_tests::nats::Nats;
use portcullis_tests::place::{free_port, nats_server, program};
use portcullis_tests::process::{Process, signal, stopped};
use portcullis_tests::relay::Relay;
use portcullis_tests::until::until;
use portcullis_tests::world::{POLICY, World, said};
use rustix::process::Signal;

const LOCAL: &str = "nats://127.0.0.1:4222";
/// An address of the hub that nobody has.
const OTHER: &str = "10.213.0.241";
const LEAVES: u16 = 7422;
const UID: &str = "64990";
const GRACE: Duration = Duration::from_secs(15);

/// Seen before: the doctor said ok, the host was isolated, and nothing reached it until its deadline.
#[tokio::test]
async fn a_host_whose_broker_is_a_leaf_node_on_it_does_not_lock_itself_out() -> anyhow::Result<()> {
    let (world, _leaf, _hub) = leaf().await?;
    refused(&world, &format!("{HUB_V4}:{LEAVES}")).await?;
    let doctor = doctor(&world, LOCAL)?;
    ensure!(doctor.status.code() == Some(1) && text(&doctor).contains("lost when this host is isolated"), "{doctor:?}");
    said(&world.verb(&["release", "h1", "--wait", "60s"])?, 0)?;
    // An order whose exclusions carry the leaf's connection is obeyed, and the release comes by it.
    let exclusion = serde_json::json!({
        "name": "hub", "direction": "out", "protocol": "tcp", "remote": { "cidrs": [format!("{HUB_V4}/32")] },
        "remote_ports": [LEAVES.to_string()], "user": "root",
    });
    let mut request = ask(Action::Isolate, "h1", "alice")?;
    request.exclusions = Some(vec![serde_json::from_value(exclusion)?]);
    world.bus.request("alice", request).await?;
    world.bus.state("h1", 3, Posture::Isolated).await?;
    ensure!(world.enforced(1)? == Posture::Isolated);
    said(&world.verb(&["release", "h1", "--wait", "60s"])?, 0)?;
    ensure!(world.enforced(1)? == Posture::Open);
    Ok(())
}

#[tokio::test]
async fn nor_one_whose_broker_is_behind_a_relay_of_bytes_at_any_of_its_addresses() -> anyhow::Result<()> {
    let world = World::start(1, Some(POLICY)).await?;
    let own = world.lab().host(1).ipv4;
    let to = SocketAddr::from((HUB_V4, BROKER_PORT));
    let at: [SocketAddr; 3] = ["127.0.0.1:4300".parse()?, "[::1]:4300".parse()?, (own, 4301).into()];
    let _relays = at.map(|at| Relay::within(&world.lab().host(1).netns, at, to));
    // Root sees which sockets are one process's; another user takes those of one user for it.
    let other: &[_] = &[("PORTCULLIS_USER", UID)];
    for (at, env) in at.into_iter().zip([&[], &[], other]) {
        connected(&world, &format!("nats://{at}"), env).await?;
        refused(&world, &to.to_string()).await?;
        said(&world.verb(&["release", "h1", "--wait", "60s"])?, 0)?;
    }
    Ok(())
}

#[tokio::test]
async fn nor_one_whose_connections_are_turned_to_a_sidecar() -> anyhow::Result<()> {
    let world = World::start(1, Some(POLICY)).await?;
    let host = &world.lab().host(1).netns;
    shell(&mut world.lab().hub().command("sh"), &format!("ip addr add {OTHER}/24 dev br0"))?;
    let broker = SocketAddr::from(([127, 0, 0, 1], world.nats.port));
    let _hub = Relay::open(world.lab().hub(), SocketAddr::new(OTHER.parse()?, BROKER_PORT), broker)?;
    let _sidecar = Relay::within(host, "0.0.0.0:15001".parse()?, SocketAddr::new(OTHER.parse()?, BROKER_PORT))?;
    let rules = format!(
        "nft 'table ip mesh {{ chain output {{ type nat hook output priority -100; ip daddr {HUB_V4} tcp dport {BROKER_PORT} redirect to :15001; }}; }}'"
    );
    shell(&mut host.command("sh"), &rules)?;
    connected(&world, &format!("nats://{HUB_V4}:{BROKER_PORT}"), &[]).await?;
    refused(&world, &format!("{OTHER}:{BROKER_PORT}")).await
}

#[tokio::test]
async fn who_allows_a_relay_is_isolated_and_cut_off() -> anyhow::Result<()> {
    let world = World::start(1, Some(POLICY)).await?;
    let _relay = relay(&world)?;
    connected(&world, LOCAL, &[("PORTCULLIS_ALLOW_RELAY", "true")]).await?;
    world.verb(&["isolate", "h1", "--no-wait"])?;
    isolated(&world).await?;
    until("and has no way to the broker", Duration::from_secs(60), || async {
        Ok(said(&world.agent_verb(1, "status", &[])?, 0)?.contains("not connected").then_some(()))
    })
    .await
}

/// Broker, orchestrator, operator and agent on one host.
#[tokio::test]
async fn a_host_on_which_the_broker_itself_runs_is_isolated_and_released() -> anyhow::Result<()> {
    let world = World::start(1, None).await?;
    let host = &world.lab().host(1).netns;
    let config = world.log("own.conf");
    let store = world.log("own");
    std::fs::write(
        &config,
        format!("server_name: own\nlisten: \"127.0.0.1:4222\"\njetstream {{ store_dir: \"{}\" }}\n", store.display()),
    )?;
    let _broker = Process::start(host.command(nats_server()?).arg("--config").arg(&config), &world.log("own.log"))?;
    let http = format!("127.0.0.1:{}", free_port()?);
    let mut serve = host.command(program("portcullis")?);
    let _serve = Process::start(serve.args(["serve", "--nats", LOCAL, "--http", &http]), &world.log("serve.log"))?;
    connected(&world, LOCAL, &[("PORTCULLIS_USER", UID)]).await?;
    let verb = |args: &[&str]| -> anyhow::Result<Output> {
        Ok(host
            .command(program("portcullis")?)
            .args(["--nats", LOCAL])
            .args(args)
            .env("PORTCULLIS_OPERATOR", "alice")
            .output()?)
    };
    until("the orchestrator knows it", Duration::from_secs(60), || async {
        Ok(verb(&["show", "h1"])?.status.success().then_some(()))
    })
    .await?;
    ensure!(!text(&doctor(&world, LOCAL)?).contains("lost when this host is isolated"));
    said(&verb(&["isolate", "h1", "--wait", "60s"])?, 0)?;
    ensure!(world.enforced(1)? == Posture::Isolated);
    said(&verb(&["release", "h1", "--wait", "60s"])?, 0)?;
    ensure!(world.enforced(1)? == Posture::Open);
    Ok(())
}

/// A relay whose way on cannot be seen: it hands over to another program by a unix socket. No silent eight hours come of it.
#[tokio::test]
async fn a_way_to_the_broker_that_the_isolation_cuts_unseen_is_opened_again_as_the_policy_says() -> anyhow::Result<()> {
    for (policy, opens) in
        [(POLICY.to_owned(), true), (POLICY.replace("rules:", "defaults: { when_unreachable: stay }\nrules:"), false)]
    {
        let world = World::start(1, Some(&policy)).await?;
        let _hidden = hidden(&world)?;
        connected(&world, LOCAL, &[("PORTCULLIS_GRACE", &format!("{}s", GRACE.as_secs()))]).await?;
        world.verb(&["isolate", "h1", "--no-wait"])?;
        isolated(&world).await?;
        let dropped = Instant::now();
        lost(&world).await?;
        ensure!(world.enforced(1)? == Posture::Isolated, "opened before the grace time");
        if !opens {
            until("the grace time is over", GRACE * 3, || async {
                Ok((dropped.elapsed() > GRACE + Duration::from_secs(3)).then_some(()))
            })
            .await?;
            ensure!(world.enforced(1)? == Posture::Isolated, "opened, and the policy says stay");
            continue;
        }
        until("the host opens itself", GRACE * 2, || async { Ok((world.enforced(1)? == Posture::Open).then_some(())) }).await?;
        ensure!(dropped.elapsed() >= GRACE - Duration::from_secs(1), "opened after {:?}", dropped.elapsed());
        let state = until("that is told", Duration::from_secs(30), || async {
            let states = world.bus.states("h1").await?.into_iter().map(|found| found.event.data);
            Ok(states.into_iter().find(|state| state.cause == StateCause::Deadline))
        })
        .await?;
        ensure!(state.error.as_ref().is_some_and(|error| error.contains("cut the route to the broker")), "{state:?}");
        world.bus.state("h1", 2, Posture::Open).await?;
    }
    Ok(())
}

/// Who cuts the way to the broker in the moment of the isolation must not free the host by it.
#[tokio::test]
async fn a_broker_that_is_cut_off_from_outside_as_the_gate_drops_opens_nothing() -> anyhow::Result<()> {
    let world = World::start(1, Some(POLICY)).await?;
    let agent = world.lab().agent(1);
    agent.kill9()?;
    agent.start(&[("PORTCULLIS_STOP_AT", "agent.enforced"), ("PORTCULLIS_GRACE", "11s")])?;
    let pid = agent.pid().context("it runs")?;
    world.verb(&["isolate", "h1", "--no-wait"])?;
    stopped(pid).await?;
    world.lab().cut_broker(true).await?;
    signal(pid, Signal::CONT)?;
    let dropped = Instant::now();
    lost(&world).await?;
    until("the grace time is over", GRACE * 3, || async { Ok((dropped.elapsed() > GRACE).then_some(())) }).await?;
    ensure!(world.enforced(1)? == Posture::Isolated, "freed by whoever cut the broker off");
    world.lab().cut_broker(false).await?;
    said(&world.verb(&["release", "h1", "--wait", "60s"])?, 0)?;
    let status = said(&world.agent_verb(1, "status", &[])?, 0)?;
    ensure!(!status.contains("was lost"), "{status}");
    Ok(())
}

/// Where there is another broker, elsewhere, it is waited for: it could be cut off by others.
#[tokio::test]
async fn the_next_broker_is_tried_when_the_first_is_lost_and_its_absence_opens_nothing() -> anyhow::Result<()> {
    let world = World::start(1, Some(POLICY)).await?;
    shell(&mut world.lab().hub().command("sh"), &format!("ip addr add {OTHER}/24 dev br0"))?;
    let _hidden = hidden(&world)?;
    connected(&world, &format!("{LOCAL},nats://{OTHER}:{BROKER_PORT}"), &[("PORTCULLIS_GRACE", "11s")]).await?;
    world.verb(&["isolate", "h1", "--no-wait"])?;
    isolated(&world).await?;
    let dropped = Instant::now();
    lost(&world).await?;
    until("the grace time is over", GRACE * 3, || async { Ok((dropped.elapsed() > GRACE).then_some(())) }).await?;
    ensure!(world.enforced(1)? == Posture::Isolated, "opened while another broker was away");
    let broker = SocketAddr::from(([127, 0, 0, 1], world.nats.port));
    let _second = Relay::open(world.lab().hub(), SocketAddr::new(OTHER.parse()?, BROKER_PORT), broker)?;
    said(&world.verb(&["release", "h1", "--wait", "60s"])?, 0)?;
    ensure!(world.enforced(1)? == Posture::Open);
    Ok(())
}

/// Two programs in h1: one listens where the agent connects, the other one speaks to the broker, and a unix socket is between them.
fn hidden(world: &World) -> anyhow::Result<[Process; 2]> {
    const RELAY: &str = "\
import asyncio, sys
async def copy(reader, writer):
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    writer.close()
async def main(side, path, host, port):
    async def joined(reader, writer):
        try:
            far = await (asyncio.open_unix_connection(path) if side == 'near' else asyncio.open_connection(host, port))
        except OSError:
            return writer.close()
        await asyncio.gather(copy(reader, far[1]), copy(far[0], writer))
    serve = asyncio.start_server(joined, '127.0.0.1', 4222) if side == 'near' else asyncio.start_unix_server(joined, path)
    await (await serve).serve_forever()
asyncio.run(main(*sys.argv[1:]))
";
    let start = |side: &str| {
        let mut command = world.lab().host(1).netns.command("python3");
        let (host, port) = (HUB_V4.to_string(), BROKER_PORT.to_string());
        command.args(["-c", RELAY, side]).arg(world.log("relay.sock")).args([host, port]);
        Process::start(&mut command, &world.log(side))
    };
    Ok([start("far")?, start("near")?])
}

async fn isolated(world: &World) -> anyhow::Result<()> {
    until("it is isolated", Duration::from_secs(60), || async { Ok((world.enforced(1)? == Posture::Isolated).then_some(())) })
        .await
}

async fn lost(world: &World) -> anyhow::Result<()> {
    until("the host itself says that the broker was lost", Duration::from_secs(30), || async {
        Ok(said(&world.agent_verb(1, "status", &[])?, 0)?
            .contains("the broker was lost when this host was isolated")
            .then_some(()))
    })
    .await
}

/// A world whose host h1 has a leaf node of the broker, with the agent connected to it.
async fn leaf() -> anyhow::Result<(World, Process, Relay)> {
    let port = free_port()?;
    let nats = Nats::start_with(&format!("leafnodes {{ listen: \"127.0.0.1:{port}\" }}")).await?;
    let mut world = World::on(nats).await?;
    std::fs::write(world.policy(), POLICY)?;
    world.orchestrate(&[]).await?;
    world.host(1).await?;
    let hub = Relay::open(world.lab().hub(), (HUB_V4, LEAVES).into(), SocketAddr::from(([127, 0, 0, 1], port)))?;
    let config = world.log("leaf.conf");
    let remote = format!("leafnodes {{ remotes: [ {{ url: \"nats-leaf://{HUB_V4}:{LEAVES}\" }} ] }}");
    std::fs::write(&config, format!("server_name: leaf\nlisten: \"127.0.0.1:4222\"\n{remote}\n"))?;
    let mut command = world.lab().host(1).netns.command(nats_server()?);
    let leaf = Process::start(command.arg("--config").arg(&config), &world.log("leaf.log"))?;
    connected(&world, LOCAL, &[]).await?;
    Ok((world, leaf, hub))
}

fn relay(world: &World) -> anyhow::Result<Relay> {
    Relay::within(&world.lab().host(1).netns, "127.0.0.1:4222".parse()?, (HUB_V4, BROKER_PORT).into())
}

/// Starts the agent of h1 with this broker, and waits until it has heard from it.
async fn connected(world: &World, nats: &str, env: &[(&str, &str)]) -> anyhow::Result<()> {
    world.lab().agent(1).kill9()?;
    let env: Vec<_> = [("PORTCULLIS_NATS", nats)].into_iter().chain(env.iter().copied()).collect();
    world.lab().agent(1).start(&env)?;
    until("the agent is connected", Duration::from_secs(30), || async {
        let status = world.agent_verb(1, "status", &["--json"])?;
        let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap_or_default();
        Ok((status["connected"] == true).then_some(()))
    })
    .await
}

/// An order to isolate h1 is answered with an error that names where its relay goes on to.
async fn refused(world: &World, onward: &str) -> anyhow::Result<()> {
    let output = world.verb(&["isolate", "h1", "--wait", "60s"])?;
    ensure!(output.status.code() == Some(1), "{output:?}");
    let state = last(world).await?;
    ensure!(state.posture == Posture::Open, "{state:?}");
    let wanted = |error: &String| error.contains("is a relay on this host") && error.contains(onward);
    ensure!(state.error.as_ref().is_some_and(wanted), "{state:?}");
    ensure!(world.enforced(1)? == Posture::Open);
    let status = said(&world.agent_verb(1, "status", &[])?, 0)?;
    ensure!(status.contains("--allow-relay"), "{status}");
    Ok(())
}

fn doctor(world: &World, nats: &str) -> anyhow::Result<Output> {
    let host = world.lab().host(1);
    let mut command = host.netns.command(program("portcullis-agent")?);
    Ok(command.args(["doctor", "--nats", nats, "--host-id", "h1", "--state-dir"]).arg(&host.state_dir).output()?)
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn shell(command: &mut Command, script: &str) -> anyhow::Result<()> {
    let output = command.args(["-ec", script]).output()?;
    ensure!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

async fn last(world: &World) -> anyhow::Result<State> {
    Ok(world.bus.states("h1").await?.pop().context("a state")?.event.data)
}
