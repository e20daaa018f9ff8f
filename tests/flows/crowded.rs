//! A conntrack table that is full, as any program can make it over loopback, keeps an isolated host's agent from nobody.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use portcullis_dev::{BROKER_PORT, HUB_V4};
use portcullis_schemas::events::Posture;
use portcullis_tests::process::signal;
use portcullis_tests::until::until;
use portcullis_tests::world::{POLICY, World, said};
use rustix::process::Signal;

/// On a loaded machine. What fills the table stays for an hour.
const AT_ONCE: Duration = Duration::from_secs(20);

#[tokio::test]
async fn an_agent_that_starts_behind_a_full_conntrack_table_reaches_its_broker_at_once() -> anyhow::Result<()> {
    let world = World::start(1, Some(POLICY)).await?;
    said(&world.verb(&["isolate", "h1"])?, 0)?;
    world.lab().agent(1).kill9()?;
    fill(&world)?;
    ensure!(!reaches(&world)?, "the table is not full");
    let before = world.bus.states("h1").await?.len();
    let start = Instant::now();
    world.lab().agent(1).start(&[])?;
    let state = until("the agent tells what it found", AT_ONCE, || async {
        let states = world.bus.states("h1").await?.split_off(before);
        let of_table = |error: &String| error.contains("conntrack table was full") && error.contains("of loopback were removed");
        Ok(states.into_iter().map(|state| state.event.data).find(|state| state.error.as_ref().is_some_and(of_table)))
    })
    .await?;
    println!("told {:?} after the agent was started", start.elapsed());
    ensure!(state.posture == Posture::Isolated && state.evidence.readback_ok, "{state:?}");
    ensure!(reaches(&world)?, "there is room");

    // While it lives as well.
    let pid = world.lab().agent(1).pid().context("it runs")?;
    signal(pid, Signal::STOP)?;
    let filled = fill(&world).and_then(|()| reaches(&world));
    signal(pid, Signal::CONT)?;
    ensure!(!filled?, "the table is not full");
    until("there is room again", AT_ONCE, || async { Ok(reaches(&world)?.then_some(())) }).await?;
    said(&world.verb(&["release", "h1"])?, 0)?;
    Ok(())
}

/// Whether a new connection to the broker can be made by the agent's user.
fn reaches(world: &World) -> anyhow::Result<bool> {
    let connect = format!("timeout 0.5 bash -c 'exec 3<>/dev/tcp/{HUB_V4}/{BROKER_PORT}'");
    Ok(world.in_host(1, &connect)?.status.success())
}

/// Connections of loopback that have seen packets both ways, which the kernel does not give up for new ones, until there is room for no more.
fn fill(world: &World) -> anyhow::Result<()> {
    let script = world.log("fill.py");
    std::fs::write(&script, FILL)?;
    let output = world.in_host(1, &format!("python3 {}", script.display()))?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout)?.trim().parse::<u64>().context("how many there are")?;
    Ok(())
}

const FILL: &str = r#"
import socket, struct
def attribute(kind, body):
    return struct.pack("=HH", len(body) + 4, kind) + body + bytes(-len(body) % 4)
def nest(kind, *parts):
    return attribute(kind | 0x8000, b"".join(parts))
def half(kind, source, to, sport, dport):
    ips = nest(1, attribute(1, source), attribute(2, to))
    ports = nest(2, attribute(1, b"\x11"), attribute(2, struct.pack("!H", sport)), attribute(3, struct.pack("!H", dport)))
    return nest(kind, ips, ports)
here = bytes([127, 0, 0, 1])
def entry(number):
    there, port = bytes([127, 1, number >> 14 & 255, 1]), 1024 + (number & 16383)
    # IPS_SEEN_REPLY, IPS_ASSURED and IPS_CONFIRMED; an hour.
    body = struct.pack("=BBH", 2, 0, 0) + half(1, there, here, port, 9) + half(2, here, there, 9, port)
    body += attribute(3, struct.pack("!I", 14)) + attribute(7, struct.pack("!I", 3600))
    return struct.pack("=IHHII", len(body) + 16, 0x100, 0x601, number, 0) + body
number = lambda name: int(open("/proc/sys/net/netfilter/nf_conntrack_" + name).read())
s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)
s.bind((0, 0))
s.setblocking(False)
most = number("max")
for first in range(0, most + 4096, 64):
    s.send(b"".join(entry(n) for n in range(first, first + 64)))
    # Once it is full, the kernel says so to each.
    try:
        while s.recv(65536): pass
    except (BlockingIOError, OSError): pass
assert number("count") >= most - 64, (number("count"), most)
print(number("count"))
"#;
