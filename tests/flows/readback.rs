//! Rules that cannot be read back: the host is isolated and says so, and says when they can be again.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use anyhow::{Context, ensure};
use portcullis_dev::AgentConfig;
use portcullis_schemas::events::{Posture, State};
use portcullis_tests::place::program;
use portcullis_tests::until::until;
use portcullis_tests::world::{POLICY, World, said};

#[tokio::test]
async fn a_reading_back_that_fails_is_said_and_so_is_its_end() -> anyhow::Result<()> {
    let mut world = World::bare().await?;
    std::fs::write(world.policy(), POLICY)?;
    world.orchestrate(&[]).await?;
    let broken = world.log("broken");
    with_stand_in(&mut world, &format!("[ ! -e {} ] || {{ echo broken >&2; exit 1; }}", broken.display())).await?;

    std::fs::write(&broken, "")?;
    said(&world.verb(&["isolate", "h1"])?, 1)?;
    ensure!(world.enforced(1)? == Posture::Isolated && fails(&last(&world).await?), "{:?}", last(&world).await?);
    std::fs::remove_file(&broken)?;
    // Whatever makes it look again: what waited to be said is said.
    ensure!(world.in_host(1, "ip link add vz0 type veth peer name vz1")?.status.success());
    until("it is read back", Duration::from_secs(20), || async { Ok(is_whole(&last(&world).await?).then_some(())) }).await?;

    std::fs::write(&broken, "")?;
    ensure!(world.in_host(1, "ip link add vz2 type veth peer name vz3")?.status.success());
    until("that it cannot be is said", Duration::from_secs(20), || async { Ok(fails(&last(&world).await?).then_some(())) })
        .await?;
    std::fs::remove_file(&broken)?;
    until("and that it can be again", Duration::from_secs(60), || async { Ok(is_whole(&last(&world).await?).then_some(())) })
        .await?;
    said(&world.verb(&["release", "h1"])?, 0)?;
    ensure!(world.enforced(1)? == Posture::Open);
    Ok(())
}

/// Starts a host whose agent finds a program in the place of nft that runs `first`, and then nft.
pub async fn with_stand_in(world: &mut World, first: &str) -> anyhow::Result<()> {
    let (wrapper, nft) = (world.log("agent"), world.log("nft"));
    executable(&nft, &format!("#!/bin/sh\n{first}\nexec {}.real \"$@\"\n", nft.display()))?;
    std::fs::copy("/usr/sbin/nft", nft.with_extension("real"))?;
    let over = format!("mount --bind {} /usr/sbin/nft && exec \"$@\"", nft.display());
    executable(
        &wrapper,
        &format!("#!/bin/sh\nexec unshare -m sh -c '{over}' sh {} \"$@\"\n", program("portcullis-agent")?.display()),
    )?;
    world.host_with(1, AgentConfig::new(wrapper)).await
}

async fn last(world: &World) -> anyhow::Result<State> {
    Ok(world.bus.states("h1").await?.pop().context("a state")?.event.data)
}

fn fails(state: &State) -> bool {
    let said = state.error.iter().chain(state.tamper.iter().flat_map(|tamper| &tamper.what));
    !state.evidence.readback_ok && said.into_iter().any(|said| said.contains("could not be read back"))
}

fn is_whole(state: &State) -> bool {
    state.posture == Posture::Isolated && state.evidence.readback_ok && state.error.is_none()
}

fn executable(path: &std::path::Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(path, text)?;
    Ok(std::fs::set_permissions(path, PermissionsExt::from_mode(0o755))?)
}
