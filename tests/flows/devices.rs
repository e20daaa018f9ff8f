//! Devices that come, go and are renamed on an isolated host, and programs that are attached to them.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::ensure;
use portcullis_schemas::events::{Level, Posture, Tamper};
use portcullis_tests::until::until;
use portcullis_tests::world::{POLICY, World, said};

use crate::tamper::{ran, states, tampers, unlocked};

/// Attaches a program that passes everything to the device new1, as `ip link set` does.
const XDP: &str = r#"python3 -c '
import ctypes, os, socket, struct
code = ctypes.create_string_buffer(struct.pack("<BBhiBBhi", 0xb7, 0, 0, 2, 0x95, 0, 0, 0))
words = ctypes.create_string_buffer(b"GPL\0")
load = ctypes.create_string_buffer(struct.pack("<IIQQIIQII16s", 6, 2, ctypes.addressof(code), ctypes.addressof(words), 0, 0, 0, 0, 0, b"pass"), 128)
program = ctypes.CDLL(None, use_errno=True).syscall(321, 5, load, 128)
assert program >= 0, os.strerror(ctypes.get_errno())
nested = struct.pack("<HHi", 8, 1, program) + struct.pack("<HHI", 8, 3, 2)
body = struct.pack("<BBHiII", 0, 0, 0, socket.if_nametoindex("new1"), 0, 0) + struct.pack("<HH", 4 + len(nested), 43 | 0x8000) + nested
link = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
link.send(struct.pack("<IHHII", 16 + len(body), 19, 5, 1, 0) + body)
assert struct.unpack_from("<i", link.recv(4096), 16)[0] == 0
'"#;

/// They are up: of XDP on a device that is not, the kernel says nothing until it is.
const NEW: &str = "ip link add new0 up type veth peer name new1; ip link set new1 up";

/// What is done, a word of what must be said of it, and whether it can be put right. They follow upon each other.
const DEEDS: &[(&str, &str, bool)] = &[
    ("ip link set new1 name other1", "was renamed to other1", true),
    ("ip link set other1 name new1", "was renamed to new1", true),
    (
        "tc qdisc add dev new1 clsact; tc filter add dev new1 ingress prio 7 u32 match u32 0 0 action mirred egress redirect dev eth0",
        "tc filter u32 (priority 7,",
        true,
    ),
    (
        "tc filter add dev new1 egress prio 8 u32 match u32 0 0 action mirred egress redirect dev eth0",
        "tc filter u32 (priority 8,",
        true,
    ),
    (XDP, "XDP program", true),
    ("ip link set new1 netns AWAY", "new1", false),
    ("ip -n AWAY link set new1 netns HOST; ip link del new0", "new0", true),
];

#[tokio::test]
async fn what_comes_is_covered_what_leaves_is_said_and_programs_are_taken_off() -> anyhow::Result<()> {
    devices(&World::start(1, Some(POLICY)).await?).await
}

#[tokio::test]
async fn the_same_without_the_lock() -> anyhow::Result<()> {
    devices(&unlocked().await?).await
}

async fn devices(world: &World) -> anyhow::Result<()> {
    said(&world.verb(&["isolate", "h1"])?, 0)?;
    let states = states(world).await?;
    ensure!(states.last().is_some_and(|state| state.level == Level::Full), "{states:?}");
    let host = world.lab().host(1);
    let start = Instant::now();
    ran(&world.in_host(1, NEW)?)?;
    covered(world, &["new0", "new1"]).await?;
    println!("new devices are covered after {:?}, nft and the look at it included", start.elapsed());
    ensure!(tampers(world).await?.is_empty(), "a device that comes is nobody's tampering");
    for (deed, word, restored) in DEEDS {
        let told: BTreeSet<String> = tampers(world).await?.into_iter().map(|(id, _)| id).collect();
        ran(&world.in_host(
            1,
            &format!("set -e; {}", deed.replace("AWAY", host.container.name()).replace("HOST", host.netns.name())),
        )?)?;
        let tamper = until(&format!("a word about {deed}"), Duration::from_secs(30), || async {
            let new = tampers(world).await?.into_iter().filter(|(id, _)| !told.contains(id));
            Ok(new.map(|(_, tamper)| tamper).find(|tamper: &Tamper| tamper.what.iter().any(|what| what.contains(word))))
        })
        .await?;
        println!("{:?}, restored: {}, in {:?} ms", tamper.what, tamper.restored, tamper.restored_in_ms);
        ensure!(tamper.restored == *restored, "{deed}: {tamper:?}");
        let left = world.in_host(
            1,
            "tc filter show dev new1 ingress; tc filter show dev new1 egress; ip -d link show dev new1 | grep -o xdp",
        )?;
        ensure!(left.stdout.is_empty(), "{deed}: {}", String::from_utf8_lossy(&left.stdout));
    }
    until("what the devices left behind is gone", Duration::from_secs(10), || async {
        Ok((!world.rules(1)?.contains("new")).then_some(()))
    })
    .await?;
    said(&world.verb(&["release", "h1"])?, 0)?;
    ensure!(world.enforced(1)? == Posture::Open);
    Ok(())
}

/// In both directions.
async fn covered(world: &World, names: &[&str]) -> anyhow::Result<()> {
    until("the devices are covered", Duration::from_secs(10), || async {
        let rules = world.rules(1)?;
        Ok(names.iter().all(|name| rules.matches(&format!("\"{name}\"")).count() == 2).then_some(()))
    })
    .await
}

#[tokio::test]
async fn a_program_that_was_there_before_is_named_and_stays() -> anyhow::Result<()> {
    let world = World::start(1, Some(POLICY)).await?;
    ran(&world.in_host(1, NEW)?)?;
    ran(&world.in_host(1, XDP)?)?;
    said(&world.verb(&["isolate", "h1"])?, 0)?;
    let (_, tamper) = until("a word about it", Duration::from_secs(10), || async { Ok(tampers(&world).await?.pop()) }).await?;
    ensure!(
        !tamper.restored && tamper.what.iter().any(|what| what.contains("XDP program") && what.contains("before")),
        "{tamper:?}"
    );
    said(&world.verb(&["release", "h1"])?, 0)?;
    ensure!(world.in_host(1, "ip -d link show dev new1 | grep xdp")?.status.success(), "it is somebody else's");
    Ok(())
}
