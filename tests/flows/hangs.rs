//! A disk, an nft or a name server that does not return leaves heartbeat, status and the taking of orders alive.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use futures_util::StreamExt;
use portcullis_dev::AgentConfig;
use portcullis_schemas::envelope::{self, CONTENT_TYPE};
use portcullis_schemas::events::{Hello, Posture, Rollcall};
use portcullis_schemas::time::Span;
use portcullis_tests::bus::event;
use portcullis_tests::until::until;
use portcullis_tests::world::{POLICY, World, said};
use tokio::time::timeout;

use crate::readback::with_stand_in;

#[tokio::test]
async fn a_disk_that_hangs_leaves_heartbeat_status_and_orders_alive() -> anyhow::Result<()> {
    let mut world = World::bare().await?;
    std::fs::write(world.policy(), POLICY)?;
    world.orchestrate(&[]).await?;
    let hang = world.log("hang");
    let mut agent = AgentConfig::new(portcullis_tests::place::program("portcullis-agent")?);
    agent.env.push(("PORTCULLIS_HANG_DISK".into(), hang.clone().into()));
    world.host_with(1, agent).await?;

    std::fs::write(&hang, "")?;
    for (generation, verb, posture) in
        [(1, "isolate", Posture::Isolated), (2, "release", Posture::Open), (3, "isolate", Posture::Isolated)]
    {
        // Nothing is on the disk, and the state event says so.
        said(&world.verb(&[verb, "h1", "--wait", "60s"])?, 1)?;
        ensure!(world.enforced(1)? == posture, "{generation}");
        let state = world.bus.state("h1", generation, posture).await?.event.data;
        ensure!(state.error.as_ref().is_some_and(|error| error.contains("the disk does not answer")), "{state:?}");
        let (status, hello) = (status(&world)?, heartbeat(&world).await?);
        println!("{verb} on a disk that hangs: status in {:?}, a hello in {hello:?}", status.1);
        ensure!(status.0.contains(&format!("\"generation\":{generation}")), "{}", status.0);
    }
    std::fs::remove_file(&hang)?;
    until("the record is on the disk", Duration::from_secs(20), || async {
        Ok((!status(&world)?.0.contains("does not answer")).then_some(()))
    })
    .await?;
    said(&world.verb(&["release", "h1"])?, 0)?;
    Ok(())
}

#[tokio::test]
async fn an_nft_that_hangs_leaves_heartbeat_status_and_orders_alive() -> anyhow::Result<()> {
    let mut world = World::bare().await?;
    std::fs::write(world.policy(), POLICY)?;
    world.orchestrate(&[]).await?;
    let hang = world.log("hang");
    with_stand_in(&mut world, &format!("while [ -e {} ]; do sleep 0.05; done", hang.display())).await?;

    std::fs::write(&hang, "")?;
    said(&world.verb(&["isolate", "h1", "--no-wait"])?, 0)?;
    until("the rules are in force, which nft has no part in", Duration::from_secs(5), || async {
        Ok((world.enforced(1)? == Posture::Isolated).then_some(()))
    })
    .await?;
    let (first, hello) = (status(&world)?, heartbeat(&world).await?);
    println!("while nft hangs: status in {:?}, a hello in {hello:?}", first.1);
    // An order is taken meanwhile, and enforced when nft is given up.
    said(&world.verb(&["release", "h1", "--no-wait"])?, 0)?;
    until("the release is taken", Duration::from_secs(5), || async {
        Ok(status(&world)?.0.contains("\"generation\":2").then_some(()))
    })
    .await?;
    ensure!(world.bus.states("h1").await?.is_empty(), "nft was given up before all was looked at");
    world.bus.state("h1", 2, Posture::Open).await?;
    ensure!(world.enforced(1)? == Posture::Open);
    std::fs::remove_file(&hang)?;
    said(&world.verb(&["isolate", "h1"])?, 0)?;
    said(&world.verb(&["release", "h1"])?, 0)?;
    Ok(())
}

/// The first lookup of a name may take a quarter of a second, and no longer, whatever becomes of it.
#[tokio::test]
async fn a_name_server_that_never_answers_leaves_heartbeat_status_and_orders_alive() -> anyhow::Result<()> {
    let mut world = World::bare().await?;
    let siem = "[{ name: siem, direction: out, protocol: udp, remote: siem.lab.test, remote_ports: 7 }]";
    std::fs::write(world.policy(), format!("{POLICY}exclusions:\n  manual_default: {siem}\n"))?;
    world.orchestrate(&[]).await?;
    let hang = world.log("hang");
    let mut agent = AgentConfig::new(portcullis_tests::place::program("portcullis-agent")?);
    agent.env.push(("PORTCULLIS_HANG_DNS".into(), hang.clone().into()));
    world.host_with(1, agent).await?;
    let mute = |verb: &str| world.in_host(1, &format!("nft '{verb} table ip mute'"));
    let silent = "nft 'add table ip mute; add chain ip mute in { type filter hook input priority -400; }; \
                  add rule ip mute in udp sport 53 drop'";
    let six = "nft 'add table ip6 mute; add chain ip6 mute in { type filter hook input priority -400; }; \
               add rule ip6 mute in udp sport 53 drop'";
    ensure!(world.in_host(1, silent)?.status.success() && world.in_host(1, six)?.status.success());

    // First a server that is silent, then a lookup that never returns: the one before waits in it until the end.
    for hangs in [false, true] {
        if hangs {
            std::fs::write(&hang, "")?;
        }
        for (verb, posture) in [("isolate", Posture::Isolated), ("release", Posture::Open), ("isolate", Posture::Isolated)] {
            let start = Instant::now();
            said(&world.verb(&[verb, "h1", "--no-wait"])?, 0)?;
            let status = status(&world)?.1;
            until("it is enforced", Duration::from_secs(5), || async { Ok((world.enforced(1)? == posture).then_some(())) })
                .await?;
            let (enforced, hello) = (start.elapsed(), heartbeat(&world).await?);
            println!("{verb}, hangs: {hangs}: status in {status:?}, enforced after {enforced:?}, a hello in {hello:?}");
        }
        let list = said(&world.agent_verb(1, "exclusions", &[])?, 0)?;
        ensure!(list.contains("none of its names has an address yet"), "{list}");
        said(&world.verb(&["release", "h1"])?, 0)?;
    }
    std::fs::remove_file(&hang)?;
    said(&world.verb(&["isolate", "h1"])?, 0)?;
    ensure!(mute("delete")?.status.success());
    until("the name is found and passes", Duration::from_secs(20), || async {
        Ok(said(&world.agent_verb(1, "exclusions", &[])?, 0)?.contains("siem            out udp").then_some(()))
    })
    .await?;
    Ok(())
}

/// What the agent says of itself, and after which time.
fn status(world: &World) -> anyhow::Result<(String, Duration)> {
    let start = Instant::now();
    let mut socket = UnixStream::connect(world.lab().host(1).state_dir.join("agent.sock"))?;
    socket.set_read_timeout(Some(Duration::from_secs(1)))?;
    socket.write_all(b"{\"verb\":\"status\"}\n")?;
    let mut line = String::new();
    BufReader::new(socket).read_line(&mut line).context("no status within a second")?;
    Ok((line, start.elapsed()))
}

/// The time after which a call of the roll is answered.
async fn heartbeat(world: &World) -> anyhow::Result<Duration> {
    let client = &world.bus.client;
    let mut hellos = client.subscribe(world.bus.prefix.all_hello()).await?;
    let call = envelope::encode(&event("call".into(), "/test", Rollcall { after: Span::seconds(0) }))?;
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("Content-Type", CONTENT_TYPE);
    let start = Instant::now();
    client.publish_with_headers(world.bus.prefix.rollcall(), headers, call.into()).await?;
    // One a second at most: it may have to wait for that.
    let hello = timeout(Duration::from_millis(1_500), hellos.next()).await.context("no hello")?.context("a hello")?;
    envelope::decode::<Hello>(std::iter::empty(), &hello.payload)?;
    Ok(start.elapsed())
}
