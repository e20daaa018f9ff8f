//! What an agent makes of each state in which a start can find its posture file, and of a disk that is full.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use portcullis_agent_core::record::{self, Record};
use portcullis_schemas::events::{Posture, StateCause};
use portcullis_tests::until::until;
use portcullis_tests::world::{POLICY, World, said};

type Deed = fn(&mut Files);

struct Case {
    name: &'static str,
    deed: Deed,
    /// The rules are gone with the kernel, as after a reboot.
    rebooted: bool,
    /// What is enforced before the broker is heard.
    posture: Posture,
    /// What is then said.
    cause: StateCause,
    error: &'static str,
}

const CASES: &[Case] = &[
    Case { name: "as it was", deed: |_| {}, rebooted: true, posture: Posture::Isolated, cause: StateCause::Check, error: "" },
    Case {
        name: "the first copy bad",
        deed: |files| files.copies[0] = b"rubbish".to_vec(),
        rebooted: true,
        posture: Posture::Isolated,
        cause: StateCause::Check,
        error: "posture copy a is unreadable",
    },
    Case {
        name: "the second copy cut off",
        deed: |files| files.copies[1].truncate(200),
        rebooted: true,
        posture: Posture::Isolated,
        cause: StateCause::Check,
        error: "posture copy b is unreadable",
    },
    Case {
        name: "both bad",
        deed: |files| files.copies.iter_mut().for_each(|copy| copy.truncate(200)),
        rebooted: true,
        posture: Posture::Isolated,
        cause: StateCause::PostureLost,
        error: "both posture copies are unreadable",
    },
    Case {
        name: "written by the next version",
        deed: |files| files.change(|record| record.version += 1),
        rebooted: true,
        posture: Posture::Isolated,
        cause: StateCause::Check,
        error: "",
    },
    Case {
        name: "of another host",
        deed: |files| files.change(|record| record.host = "h9".parse().expect("an id")),
        rebooted: true,
        posture: Posture::Isolated,
        cause: StateCause::Check,
        error: "is of host h9",
    },
    Case {
        name: "absent, and the rules are there",
        deed: |files| files.copies.clear(),
        rebooted: false,
        posture: Posture::Isolated,
        cause: StateCause::PostureLost,
        error: "the posture file has none",
    },
    // As of a host that never had an order; the order that stands is heard later, and obeyed.
    Case {
        name: "absent",
        deed: |files| files.copies.clear(),
        rebooted: true,
        posture: Posture::Open,
        cause: StateCause::Order,
        error: "",
    },
];

#[tokio::test]
async fn each_state_of_the_file_has_its_posture_and_is_said() -> anyhow::Result<()> {
    for case in CASES {
        let world = World::start(1, Some(POLICY)).await?;
        said(&world.verb(&["isolate", "h1"])?, 0)?;
        // Both copies are written when the order has been answered for a moment.
        let mut files =
            until("both copies are there", Duration::from_secs(10), || async { Files::read(&world).map(Some) }).await?;
        world.lab().agent(1).kill9()?;
        world.lab().cut_broker(true).await?;
        (case.deed)(&mut files);
        files.write()?;
        if case.rebooted {
            ran(&world, "nft delete table inet portcullis; nft delete table netdev portcullis")?;
        }
        let before = world.bus.states("h1").await?.len();
        world.lab().agent(1).start(&[])?;
        until("the agent is at work", Duration::from_secs(20), || async {
            Ok(world.agent_verb(1, "status", &[])?.status.success().then_some(()))
        })
        .await?;
        ensure!(world.enforced(1)? == case.posture, "{}", case.name);
        world.lab().cut_broker(false).await?;
        let state = until(&format!("{} is told", case.name), Duration::from_secs(40), || async {
            Ok(world.bus.states("h1").await?.into_iter().nth(before).map(|found| found.event.data))
        })
        .await?;
        let error = state.error.clone().unwrap_or_default();
        println!("{}: {}, {:?}, {error:?}", case.name, state.posture.as_str(), state.cause);
        ensure!(state.cause == case.cause && state.posture == Posture::Isolated, "{}: {state:?}", case.name);
        ensure!(error.contains(case.error) && error.is_empty() == case.error.is_empty(), "{}: {error}", case.name);
        said(&world.verb(&["release", "h1", "--wait", "60s"])?, 0)?;
        ensure!(world.enforced(1)? == Posture::Open, "{}", case.name);
    }
    Ok(())
}

#[tokio::test]
async fn on_a_full_disk_the_host_is_isolated_all_the_same_and_says_so() -> anyhow::Result<()> {
    let world = World::start(1, Some(POLICY)).await?;
    let agent = world.lab().agent(1);
    agent.stop().await?;
    let disk = SmallDisk::on(&world.lab().host(1).state_dir)?;
    disk.fill()?;
    agent.start(&[])?;
    said(&world.verb(&["isolate", "h1", "--wait", "60s"])?, 1)?;
    ensure!(world.enforced(1)? == Posture::Isolated);
    let state = world.bus.state("h1", 1, Posture::Isolated).await?.event.data;
    ensure!(state.error.as_ref().is_some_and(|error| error.contains("the posture is not on the disk")), "{state:?}");
    // The next process finds rules and nothing that explains them: it keeps them, and says that.
    agent.kill9()?;
    agent.start(&[])?;
    until("the loss is told", Duration::from_secs(30), || async {
        let states = world.bus.states("h1").await?;
        Ok(states.iter().any(|found| found.event.data.cause == StateCause::PostureLost).then_some(()))
    })
    .await?;
    ensure!(world.enforced(1)? == Posture::Isolated);
    disk.free()?;
    until("the posture is on the disk when there is space", Duration::from_secs(60), || async { Files::read(&world).map(Some) })
        .await?;
    said(&world.verb(&["release", "h1", "--wait", "60s"])?, 0)?;
    ensure!(world.enforced(1)? == Posture::Open);
    agent.stop().await?;
    Ok(())
}

/// The older copy says that the host is open, and the newer one was torn over the last bytes of the disk.
#[tokio::test]
async fn a_restart_on_a_full_disk_opens_no_host_whose_isolation_found_no_space() -> anyhow::Result<()> {
    let world = World::start(1, Some(POLICY)).await?;
    let agent = world.lab().agent(1);
    agent.stop().await?;
    let disk = SmallDisk::on(&world.lab().host(1).state_dir)?;
    agent.start(&[])?;
    said(&world.verb(&["isolate", "h1", "--wait", "60s"])?, 0)?;
    said(&world.verb(&["release", "h1", "--wait", "60s"])?, 0)?;
    let generation = |copy: &str| {
        let bytes = std::fs::read(world.lab().host(1).state_dir.join(copy)).ok()?;
        Some(record::decode(&bytes).ok()?.generation)
    };
    until("both copies say that it is open", Duration::from_secs(20), || async {
        Ok(["posture.a", "posture.b"].iter().all(|copy| generation(copy) == Some(2)).then_some(()))
    })
    .await?;
    // What has been told is forgotten soon, which would make room.
    agent.stop().await?;
    disk.fill()?;
    agent.start(&[])?;
    said(&world.verb(&["isolate", "h1", "--wait", "60s"])?, 1)?;
    ensure!(world.enforced(1)? == Posture::Isolated);
    world.lab().cut_broker(true).await?;
    agent.kill9()?;
    agent.start(&[])?;
    until("it runs again", Duration::from_secs(20), || async {
        Ok(world.agent_verb(1, "status", &[])?.status.success().then_some(()))
    })
    .await?;
    ensure!(world.enforced(1)? == Posture::Isolated, "opened by a restart");
    disk.free()?;
    world.lab().cut_broker(false).await?;
    until("the orchestrator has told it anew", Duration::from_secs(60), || async { Files::read(&world).map(Some) }).await?;
    said(&world.verb(&["release", "h1", "--wait", "60s"])?, 0)?;
    ensure!(world.enforced(1)? == Posture::Open);
    agent.stop().await?;
    Ok(())
}

/// The two copies in a host's directory.
struct Files {
    paths: [PathBuf; 2],
    copies: Vec<Vec<u8>>,
}

impl Files {
    /// An error while one of them is not there, or does not isolate.
    fn read(world: &World) -> anyhow::Result<Self> {
        let paths = ["posture.a", "posture.b"].map(|name| world.lab().host(1).state_dir.join(name));
        let copies = paths.iter().map(std::fs::read).collect::<Result<Vec<_>, _>>()?;
        for copy in &copies {
            let record = record::decode(copy).map_err(anyhow::Error::msg)?;
            ensure!(record.posture == Posture::Isolated, "not yet");
        }
        Ok(Self { paths, copies })
    }

    fn change(&mut self, change: impl Fn(&mut Record)) {
        for copy in &mut self.copies {
            let mut record = record::decode(copy).expect("it was read before");
            change(&mut record);
            *copy = record::encode(&record).expect("a record");
        }
    }

    fn write(&self) -> anyhow::Result<()> {
        for path in &self.paths {
            std::fs::remove_file(path)?;
        }
        for (path, copy) in self.paths.iter().zip(&self.copies) {
            std::fs::write(path, copy)?;
        }
        Ok(())
    }
}

/// A small file system over a directory.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn on(directory: &Path) -> anyhow::Result<Self> {
        let script = "cp $0/resolv.conf $0.conf && mount -t tmpfs -o size=256k,mode=700 small $0 && mv $0.conf $0/resolv.conf";
        let status = Command::new("sh").args(["-c", script]).arg(directory).status()?;
        let disk = Self(directory.to_owned());
        ensure!(status.success(), "cannot mount over {}", directory.display());
        Ok(disk)
    }

    fn fill(&self) -> anyhow::Result<()> {
        let script = "! dd if=/dev/zero of=$0/rest bs=4k count=1000 2> /dev/null";
        ensure!(Command::new("sh").args(["-c", script]).arg(&self.0).status()?.success(), "it is not full");
        Ok(())
    }

    fn free(&self) -> anyhow::Result<()> {
        std::fs::remove_file(self.0.join("rest")).context("the file that fills it")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // An agent may still have files there; it goes with them.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn ran(world: &World, script: &str) -> anyhow::Result<()> {
    let output = world.in_host(1, script)?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
