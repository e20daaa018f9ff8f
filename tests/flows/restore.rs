//! A reboot takes the rules with it: they are back before the network is, without a broker or an agent.

use std::process::Output;
use std::time::Duration;

use anyhow::ensure;
use portcullis_dev::{BROKER_PORT, HUB_V4};
use portcullis_schemas::events::{Posture, StateCause};
use portcullis_tests::place::program;
use portcullis_tests::until::until;
use portcullis_tests::world::{POLICY, World, said};

#[tokio::test]
async fn what_the_posture_file_says_is_restored_before_the_agent_starts_and_taken_over_by_it() -> anyhow::Result<()> {
    let world = World::start(1, Some(POLICY)).await?;
    said(&world.verb(&["isolate", "h1"])?, 0)?;
    let before = chains(&world)?;
    world.lab().agent(1).kill9()?;
    world.lab().cut_broker(true).await?;
    let wiped = world.in_host(1, "nft delete table inet portcullis; nft delete table netdev portcullis")?;
    ensure!(wiped.status.success() && world.enforced(1)? == Posture::Open, "{wiped:?}");
    let restored = said(&restore(&world)?, 0)?;
    ensure!(restored.contains("isolated") && restored.contains("full"), "{restored}");
    ensure!(chains(&world)? == before);
    // Nothing was told or written by it: the agent finds the posture as it left it.
    world.lab().cut_broker(false).await?;
    world.lab().agent(1).start(&[])?;
    until("the agent tells what stands", Duration::from_secs(20), || async {
        let states = world.bus.states("h1").await?;
        Ok((states.len() > 1).then_some(()).filter(|()| {
            states
                .last()
                .is_some_and(|state| state.event.data.cause == StateCause::Check && state.event.data.evidence.table_locked)
        }))
    })
    .await?;
    ensure!(chains(&world)? == before);
    said(&world.verb(&["release", "h1"])?, 0)?;
    ensure!(world.enforced(1)? == Posture::Open);
    world.lab().agent(1).kill9()?;
    let open = said(&restore(&world)?, 0)?;
    ensure!(open.contains("open") && world.enforced(1)? == Posture::Open, "{open}");
    Ok(())
}

#[tokio::test]
async fn a_posture_that_cannot_be_read_is_restored_as_isolated_with_a_way_to_the_broker() -> anyhow::Result<()> {
    let world = World::start(1, Some(POLICY)).await?;
    said(&world.verb(&["isolate", "h1"])?, 0)?;
    world.lab().agent(1).kill9()?;
    ensure!(world.in_host(1, "nft delete table inet portcullis; nft delete table netdev portcullis")?.status.success());
    for copy in ["posture.a", "posture.b"] {
        std::fs::write(world.lab().host(1).state_dir.join(copy), "rubbish")?;
    }
    said(&restore(&world)?, 0)?;
    let rules = world.rules(1)?;
    ensure!(rules.contains("set control4") && rules.contains(". 4222 }"), "no way to the broker: {rules}");
    world.lab().agent(1).start(&[])?;
    said(&world.verb(&["release", "h1", "--wait", "30s"])?, 0)?;
    ensure!(world.enforced(1)? == Posture::Open);
    Ok(())
}

/// On the host itself, in its network namespace.
fn restore(world: &World) -> anyhow::Result<Output> {
    let host = world.lab().host(1);
    let mut command = host.netns.command(program("portcullis-agent")?);
    let nats = format!("nats://{HUB_V4}:{BROKER_PORT}");
    Ok(command.args(["restore", "--host-id", "h1", "--nats", &nats, "--state-dir"]).arg(&host.state_dir).output()?)
}

/// The chains of our tables, which say nothing of their owner.
fn chains(world: &World) -> anyhow::Result<String> {
    let rules = world.rules(1)?;
    Ok(rules.lines().filter(|line| line.starts_with('\t') && !line.starts_with("\tflags")).collect())
}
