//! An agent that is not root enforces all the same, and nobody but its user speaks to the broker, root included.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use anyhow::{Context, ensure};
use portcullis_dev::{AgentConfig, BROKER_PORT, HUB_V4};
use portcullis_schemas::events::{Level, Posture, StateCause};
use portcullis_tests::place::program;
use portcullis_tests::process::signal;
use portcullis_tests::until::until;
use portcullis_tests::world::{POLICY, World, said};
use rustix::process::Signal;

pub const UID: &str = "64990";
/// A user of whom nothing else runs beside: the kernel counts processes by user.
const ALONE: &str = "64991";
/// What an agent of its own user has: CAP_DAC_READ_SEARCH and CAP_NET_ADMIN (capability.h: 2 and 12).
const CAPABILITIES: u64 = 1 << 2 | 1 << 12;

#[tokio::test]
async fn the_agents_user_alone_reaches_the_broker_in_each_layer_and_root_does_not() -> anyhow::Result<()> {
    let world = world(&[("PORTCULLIS_USER", UID), ("PORTCULLIS_LOCK", "off")]).await?;
    ensure!(reaches(&world, "0")? && reaches(&world, UID)?, "open: everybody does");
    said(&world.verb(&["isolate", "h1"])?, 0)?;
    let state = world.bus.states("h1").await?.pop().context("a state")?.event.data;
    ensure!(state.level == Level::Full && state.evidence.readback_ok && state.error.is_none(), "{state:?}");
    let pid = world.lab().agent(1).pid().context("it runs")?;
    rights(pid)?;
    ensure!(!reaches(&world, "0")? && reaches(&world, UID)?, "isolated: the agent's user alone does");
    // Without the inet table nothing is marked, and the devices let nothing out at all.
    for (family, reached) in [("inet", (false, false)), ("netdev", (false, true))] {
        let before = world.rules(1)?;
        // Held still, so that it does not put right what is taken away here.
        signal(pid, Signal::STOP)?;
        ensure!(world.in_host(1, &format!("nft delete table {family} portcullis"))?.status.success());
        let alone = (reaches(&world, "0")?, reaches(&world, UID)?);
        signal(pid, Signal::CONT)?;
        ensure!(alone == reached, "without {family}: {alone:?}");
        until("both layers stand again", Duration::from_secs(10), || async { Ok((world.rules(1)? == before).then_some(())) })
            .await?;
    }
    said(&world.agent_verb(1, "status", &[])?, 0)?;
    said(&world.verb(&["release", "h1"])?, 0)?;
    ensure!(world.enforced(1)? == Posture::Open);
    Ok(())
}

#[tokio::test]
async fn an_agent_of_its_own_user_takes_over_what_one_of_roots_left_locked() -> anyhow::Result<()> {
    let world = World::start(1, Some(POLICY)).await?;
    said(&world.verb(&["isolate", "h1"])?, 0)?;
    ensure!(world.rules(1)?.contains("meta skuid 0"));
    world.lab().agent(1).kill9()?;
    world.lab().agent(1).start(&[("PORTCULLIS_USER", UID)])?;
    until("it tells what stands", Duration::from_secs(20), || async {
        let state = world.bus.states("h1").await?.pop().map(|state| state.event.data);
        Ok(state.filter(|state| state.cause == StateCause::Check && state.evidence.table_locked && state.error.is_none()))
    })
    .await?;
    ensure!(world.rules(1)?.contains(&format!("meta skuid {UID}")) && !reaches(&world, "0")?);
    said(&world.verb(&["release", "h1"])?, 0)?;
    ensure!(world.enforced(1)? == Posture::Open);
    Ok(())
}

#[tokio::test]
async fn a_supervisor_needs_to_give_it_no_more_than_cap_net_admin() -> anyhow::Result<()> {
    let world = supervised("", UID).await?;
    said(&world.verb(&["isolate", "h1"])?, 0)?;
    let state = world.bus.states("h1").await?.pop().context("a state")?.event.data;
    let evidence = &state.evidence;
    ensure!(state.level == Level::Full && evidence.readback_ok && evidence.table_locked && state.error.is_none(), "{state:?}");
    ensure!(!reaches(&world, "0")? && reaches(&world, UID)?);
    said(&world.agent_verb(1, "release", &[])?, 0)?;
    ensure!(world.enforced(1)? == Posture::Open);
    Ok(())
}

/// As on a host on which somebody has used up all threads.
#[tokio::test]
async fn an_agent_that_gets_no_thread_and_no_process_isolates_says_so_and_opens() -> anyhow::Result<()> {
    let world = supervised("prlimit --nproc=1", ALONE).await?;
    let pid = world.lab().agent(1).pid();
    said(&world.verb(&["isolate", "h1"])?, 1)?;
    ensure!(world.enforced(1)? == Posture::Isolated);
    let state = world.bus.state("h1", 1, Posture::Isolated).await?.event.data;
    ensure!(state.error.as_ref().is_some_and(|error| error.contains("could not be read back")), "{state:?}");
    said(&world.verb(&["release", "h1"])?, 0)?;
    ensure!(world.enforced(1)? == Posture::Open);
    ensure!(pid.is_some() && world.lab().agent(1).pid() == pid, "it is another process");
    Ok(())
}

/// An agent that was given its rights from outside, with a command before it.
async fn supervised(command: &str, uid: &str) -> anyhow::Result<World> {
    let mut world = World::bare().await?;
    std::fs::write(world.policy(), POLICY)?;
    world.orchestrate(&[]).await?;
    let (lab, wrapper, agent) = (world.log("lab"), world.log("agent"), program("portcullis-agent")?);
    let text = format!(
        "#!/bin/sh\nset -e\nchmod 755 {lab}\nchown {uid}:{uid} {lab}/h1\nexec {command} setpriv --reuid {uid} --regid {uid} --clear-groups \
         --bounding-set=-all,+net_admin --inh-caps=-all,+net_admin --ambient-caps=-all,+net_admin {agent} \"$@\"\n",
        lab = lab.display(),
        agent = agent.display()
    );
    std::fs::write(&wrapper, text)?;
    std::fs::set_permissions(&wrapper, PermissionsExt::from_mode(0o755))?;
    world.host_with(1, AgentConfig::new(wrapper)).await?;
    Ok(world)
}

pub async fn world(env: &[(&str, &str)]) -> anyhow::Result<World> {
    let world = World::start(1, Some(POLICY)).await?;
    world.lab().agent(1).kill9()?;
    world.lab().agent(1).start(env)?;
    Ok(world)
}

/// Whether a program of that user gets a connection to the broker.
fn reaches(world: &World, uid: &str) -> anyhow::Result<bool> {
    let connect = format!("timeout 3 bash -c 'exec 3<>/dev/tcp/{HUB_V4}/{BROKER_PORT}'");
    Ok(world.in_host(1, &format!("setpriv --reuid {uid} --regid {uid} --clear-groups {connect}"))?.status.success())
}

fn rights(pid: u32) -> anyhow::Result<()> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let field =
        |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim).unwrap_or_default().to_owned();
    ensure!(field("Uid:") == [UID; 4].join("\t") && field("NoNewPrivs:") == "1", "{status}");
    for set in ["CapPrm:", "CapEff:", "CapBnd:"] {
        ensure!(u64::from_str_radix(&field(set), 16)? == CAPABILITIES, "{set} {status}");
    }
    Ok(())
}
