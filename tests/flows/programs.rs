//! Programs and sockets beside the rules of an isolated host, put there by root: they are told by all that they are made of.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use portcullis_schemas::events::{Posture, State, Tamper};
use portcullis_tests::until::until;
use portcullis_tests::world::{POLICY, World, said};

use crate::own_user;
use crate::tamper::{ran, states, tampers};

const ATTACH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/flows/attach.py");
/// Two devices more, and a filter on loopback that does nothing.
const BEFORE: &str = "ip link add d0 up type veth peer name d1; ip link set d1 up; tc qdisc add dev lo clsact; \
                      tc filter add dev lo egress prio 7 protocol ip u32 match ip dst 203.0.113.1/32 action mirred egress mirror dev d0";
/// What sends all of loopback out past the rules.
const REDIRECT: &str = "u32 match u32 0 0 action mirred egress redirect dev eth0";
const FILTERS: &str = "tc filter show dev lo egress; tc filter show dev lo ingress";
const SOON: Duration = Duration::from_secs(20);

#[tokio::test]
async fn what_changes_under_a_known_filter_is_removed_and_said() -> anyhow::Result<()> {
    let world = isolated_with(World::start(1, Some(POLICY)).await?, BEFORE).await?;
    let known = filters(&world)?;
    let deeds = [
        // Beside it: the same kind and priority.
        (format!("tc filter add dev lo egress prio 7 protocol ip {REDIRECT}"), "tc filter u32 (priority 7, handle 0x80000801)"),
        (format!("tc filter add dev lo egress chain 5 prio 8 protocol ip {REDIRECT}"), "tc filter u32 (priority 8"),
        (format!("tc filter add dev lo ingress prio 9 protocol ip {REDIRECT}"), "tc filter u32 (priority 9"),
        // Filters that devices share.
        ("tc qdisc add dev d1 ingress_block 22 clsact".to_owned(), "shared tc block 22"),
    ];
    for (deed, word) in &deeds {
        let tamper = told(&world, deed, word).await?;
        ensure!(tamper.restored && filters(&world)? == known, "{deed}: {tamper:?}\n{}", filters(&world)?);
    }
    ensure!(!world.in_host(1, "tc qdisc show dev d1 | grep clsact")?.status.success());
    // The action of the known filter, and so the filter.
    let index = known.split("index ").nth(1).and_then(|rest| rest.split(' ').next()).context("the action's index")?;
    let deed = format!("tc action change action mirred egress redirect dev eth0 index {index}");
    let tamper = told(&world, &deed, "tc filter u32 (priority 7, handle 0x80000800)").await?;
    ensure!(tamper.restored && !filters(&world)?.contains("mirred"), "{tamper:?}\n{}", filters(&world)?);
    said(&world.verb(&["release", "h1"])?, 0)?;
    Ok(())
}

#[tokio::test]
async fn a_filter_that_replaces_a_known_one_is_removed_and_a_used_one_stays() -> anyhow::Result<()> {
    let world = isolated_with(World::start(1, Some(POLICY)).await?, BEFORE).await?;
    // It counts, and the time of its last use changes.
    ran(&world.in_host(1, "ip addr add 203.0.113.1/32 dev lo; bash -c 'echo > /dev/udp/203.0.113.1/9'")?)?;
    ran(&world.in_host(1, "tc -s filter show dev lo egress | grep -E 'Sent [1-9]'")?)?;
    let deed = format!("tc filter replace dev lo egress prio 7 handle 800::800 protocol ip {REDIRECT}");
    let tamper = told(&world, &deed, "tc filter u32 (priority 7, handle 0x80000800)").await?;
    ensure!(tamper.restored && tamper.what.len() == 1 && !filters(&world)?.contains("mirred"), "{tamper:?}");
    // The known one was never touched before: nothing else was said.
    ensure!(tampers(&world).await?.len() == 2, "{:?}", tampers(&world).await?);
    said(&world.verb(&["release", "h1"])?, 0)?;
    Ok(())
}

#[tokio::test]
async fn filters_that_come_in_a_loop_are_removed_to_the_last() -> anyhow::Result<()> {
    let world = isolated_with(World::start(1, Some(POLICY)).await?, BEFORE).await?;
    let known = filters(&world)?;
    let deed = format!(
        "end=$(($(date +%s) + 3)); n=0; while [ $(date +%s) -lt $end ]; do n=$((n+1)); \
         tc filter add dev lo egress prio $((n % 50 + 8)) {REDIRECT} 2> /dev/null; done; echo $n"
    );
    let loops = String::from_utf8(world.in_host(1, &deed)?.stdout)?;
    let start = Instant::now();
    until("all are removed", SOON, || async { Ok((filters(&world)? == known).then_some(())) }).await?;
    println!("{} filters in a loop; the last one was removed {:?} later", loops.trim(), start.elapsed());
    until("that is said", SOON, || async {
        let all = tampers(&world).await?;
        let of_filters = all.iter().filter(|(_, tamper)| tamper.what.iter().any(|what| what.contains("was removed"))).count();
        Ok((of_filters > 0 && last(&world).await?.error.is_none()).then_some(()))
    })
    .await?;
    ensure!(filters(&world)? == known);
    let told = tampers(&world).await?;
    println!("{} events told of {} changes", told.len(), told.iter().map(|(_, tamper)| tamper.times).sum::<u64>());
    ensure!(told.len() < 24, "{told:?}");
    said(&world.verb(&["release", "h1"])?, 0)?;
    ensure!(filters(&world)? == known, "what was there before is somebody else's");
    Ok(())
}

#[tokio::test]
async fn what_comes_while_no_agent_lives_is_not_known_to_the_next() -> anyhow::Result<()> {
    let world = isolated_with(World::start(1, Some(POLICY)).await?, BEFORE).await?;
    let known = filters(&world)?;
    world.lab().agent(1).kill9()?;
    ran(&world.in_host(1, &format!("tc filter add dev lo egress prio 7 protocol ip {REDIRECT}"))?)?;
    ran(&world.in_host(1, &format!("python3 {ATTACH} tcx-program d0"))?)?;
    ensure!(filters(&world)? != known);
    let before = names(&world).await?;
    world.lab().agent(1).start(&[])?;
    for word in ["tc filter u32 (priority 7, handle 0x80000801)", "tcx program"] {
        let tamper = new(&world, &before, word).await?;
        ensure!(tamper.what.iter().any(|what| what.contains(word) && what.contains("was removed")), "{tamper:?}");
    }
    ensure!(filters(&world)? == known, "{}", filters(&world)?);
    said(&world.verb(&["release", "h1"])?, 0)?;
    Ok(())
}

#[tokio::test]
async fn a_program_that_comes_by_a_link_is_found_within_a_second_and_named_for_as_long_as_it_stays() -> anyhow::Result<()> {
    let world = isolated_with(own_user::world(&[("PORTCULLIS_USER", own_user::UID)]).await?, BEFORE).await?;
    for (kind, word) in [("xdp", "XDP program"), ("tcx-in", "tcx program"), ("tcx-out", "tcx program")] {
        let before = names(&world).await?;
        let held = Held::new(&world, kind, "d0")?;
        let start = Instant::now();
        let tamper = new(&world, &before, word).await?;
        println!("{kind} by a link: said after {:?}: {:?}", start.elapsed(), tamper.what);
        ensure!(!tamper.restored, "{tamper:?}");
        let state = last(&world).await?;
        let is_named = |text: &str| text.contains(word) && text.contains("cannot be removed");
        ensure!(state.leaks.iter().any(|leak| is_named(leak)) && state.error.as_deref().is_some_and(is_named), "{state:?}");
        drop(held);
        ended(&world).await?;
    }
    // One that no link holds is removed with the same rights.
    let tamper = told(&world, &format!("python3 {ATTACH} tcx-program d0"), "tcx program").await?;
    ensure!(tamper.restored, "{tamper:?}");
    said(&world.verb(&["release", "h1"])?, 0)?;
    Ok(())
}

#[tokio::test]
async fn a_program_that_is_swapped_under_its_link_is_not_the_known_one() -> anyhow::Result<()> {
    let world = World::start(1, Some(POLICY)).await?;
    ran(&world.in_host(1, BEFORE)?)?;
    let mut held = [Held::new(&world, "xdp", "d0")?, Held::new(&world, "tcx-out", "d0")?];
    let world = isolated_with(world, ":").await?;
    ensure!(last(&world).await?.error.is_none(), "what was there before is no error: {:?}", last(&world).await?);
    for (held, word) in held.iter_mut().zip(["XDP program", "tcx program"]) {
        let before = names(&world).await?;
        held.swap()?;
        let tamper = new(&world, &before, word).await?;
        // This agent is root, and may detach links.
        ensure!(tamper.restored && tamper.what.iter().any(|what| what.contains("was removed")), "{tamper:?}");
    }
    ended(&world).await?;
    said(&world.verb(&["release", "h1"])?, 0)?;
    Ok(())
}

#[tokio::test]
async fn a_socket_of_af_xdp_is_named_for_as_long_as_it_is_open() -> anyhow::Result<()> {
    let world = isolated_with(World::start(1, Some(POLICY)).await?, BEFORE).await?;
    let before = names(&world).await?;
    let held = Held::new(&world, "af_xdp", "d0")?;
    let start = Instant::now();
    let tamper = new(&world, &before, "AF_XDP").await?;
    println!("an AF_XDP socket: said after {:?}: {:?}", start.elapsed(), tamper.what);
    ensure!(!tamper.restored, "{tamper:?}");
    let state = last(&world).await?;
    ensure!(state.leaks.iter().any(|leak| leak.contains("AF_XDP")) && state.error.is_some(), "{state:?}");
    drop(held);
    ended(&world).await?;
    said(&world.verb(&["release", "h1"])?, 0)?;
    // One that is open already is in the first answer to the order, which is then no plain success.
    let _held = Held::new(&world, "af_xdp", "d0")?;
    let output = world.verb(&["isolate", "h1"])?;
    ensure!(output.status.code() == Some(1), "{output:?}");
    ensure!(world.enforced(1)? == Posture::Isolated);
    said(&world.verb(&["release", "h1"])?, 0)?;
    Ok(())
}

/// Isolated after `script`, and what was there before is said.
async fn isolated_with(world: World, script: &str) -> anyhow::Result<World> {
    ran(&world.in_host(1, &format!("set -e; {script}"))?)?;
    said(&world.verb(&["isolate", "h1"])?, 0)?;
    new(&world, &BTreeSet::new(), "it was there before").await?;
    Ok(world)
}

/// Without empty tables of u32, which stay for as long as any filter of u32 is there.
fn filters(world: &World) -> anyhow::Result<String> {
    let all = String::from_utf8(world.in_host(1, FILTERS)?.stdout)?;
    let is_of_one = |line: &&str| !line.starts_with("filter") || line.contains("::");
    Ok(all.lines().filter(is_of_one).map(|line| format!("{}\n", line.trim())).collect())
}

async fn names(world: &World) -> anyhow::Result<BTreeSet<String>> {
    Ok(tampers(world).await?.into_iter().map(|(id, _)| id).collect())
}

/// What is said of tampering that holds this word, and was not said before.
async fn new(world: &World, before: &BTreeSet<String>, word: &str) -> anyhow::Result<Tamper> {
    until(&format!("a word about {word:?}"), SOON, || async {
        let mut new = tampers(world).await?.into_iter().filter(|(id, _)| !before.contains(id)).map(|(_, tamper)| tamper);
        Ok(new.find(|tamper| tamper.what.iter().any(|what| what.contains(word))))
    })
    .await
}

async fn told(world: &World, deed: &str, word: &str) -> anyhow::Result<Tamper> {
    let before = names(world).await?;
    ran(&world.in_host(1, &format!("set -e; {deed}"))?).with_context(|| deed.to_owned())?;
    new(world, &before, word).await
}

async fn last(world: &World) -> anyhow::Result<State> {
    states(world).await?.pop().context("a state")
}

/// A state event says that nothing passes the rules by but what was there before.
async fn ended(world: &World) -> anyhow::Result<()> {
    until("a word about the end", SOON, || async {
        let state = last(world).await?;
        let is_over = state.error.is_none() && state.leaks.iter().all(|leak| leak.contains("before the isolation"));
        Ok(is_over.then_some(()))
    })
    .await
}

/// A process that holds something on a device of host 1, gone with it.
struct Held {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Held {
    fn new(world: &World, kind: &str, device: &str) -> anyhow::Result<Self> {
        let mut command = world.lab().host(1).netns.command("python3");
        let mut child = command.args([ATTACH, kind, device]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let (input, output) = (child.stdin.take(), BufReader::new(child.stdout.take().context("its output")?));
        let mut held = Self { child, input, output };
        held.ready()?;
        Ok(held)
    }

    /// Another program in its place.
    fn swap(&mut self) -> anyhow::Result<()> {
        writeln!(self.input.as_mut().context("its input")?, "swap")?;
        self.ready()
    }

    fn ready(&mut self) -> anyhow::Result<()> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        ensure!(line == "ready\n", "{line:?}");
        Ok(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        drop(self.input.take());
        let _ = self.child.wait();
    }
}
