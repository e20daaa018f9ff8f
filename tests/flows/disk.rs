//! A disk that does not answer holds up no order.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::ensure;
use portcullis_agent_core::record;
use portcullis_schemas::events::Posture;
use portcullis_tests::until::until;
use portcullis_tests::world::{POLICY, World, said};

#[tokio::test]
async fn orders_are_carried_out_on_a_disk_that_stands_still_and_are_on_it_when_it_goes_on() -> anyhow::Result<()> {
    let world = World::start(1, Some(POLICY)).await?;
    let agent = world.lab().agent(1);
    agent.stop().await?;
    let Some(disk) = StillDisk::on(&world.lab().host(1).state_dir, &world.log("disk"))? else {
        eprintln!("not tried: no file system can be mounted over a loop device here");
        return Ok(());
    };
    agent.start(&[])?;
    until("the agent is up", Duration::from_secs(20), || async {
        let status = world.agent_verb(1, "status", &[])?;
        let text = String::from_utf8_lossy(&status.stdout).into_owned();
        Ok(text.lines().any(|line| line.split_whitespace().eq(["broker", "connected"])).then_some(()))
    })
    .await?;
    disk.freeze()?;
    for (generation, verb, posture) in
        [(1, "isolate", Posture::Isolated), (2, "release", Posture::Open), (3, "isolate", Posture::Isolated)]
    {
        let start = Instant::now();
        said(&world.verb(&[verb, "h1", "--wait", "60s"])?, 1)?;
        ensure!(world.enforced(1)? == posture, "{generation}");
        let state = world.bus.state("h1", generation, posture).await?.event.data;
        ensure!(state.error.as_ref().is_some_and(|error| error.contains("the disk does not answer")), "{state:?}");
        println!("{verb} on a disk that stands still: {:?}", start.elapsed());
    }
    disk.thaw()?;
    until("the last posture is on the disk, twice", Duration::from_secs(60), || async {
        let copies = ["posture.a", "posture.b"].map(|name| std::fs::read(world.lab().host(1).state_dir.join(name)));
        let last = |copy: &std::io::Result<Vec<u8>>| {
            let record = copy.as_ref().ok().and_then(|copy| record::decode(copy).ok());
            record.is_some_and(|record| (record.generation, record.posture) == (3, Posture::Isolated))
        };
        Ok(copies.iter().all(last).then_some(()))
    })
    .await?;
    agent.kill9()?;
    agent.start(&[])?;
    said(&world.verb(&["release", "h1", "--wait", "60s"])?, 0)?;
    ensure!(world.enforced(1)? == Posture::Open);
    agent.stop().await?;
    Ok(())
}

/// A file system of its own over a host's directory, but for the agent's log.
struct StillDisk(PathBuf);

impl StillDisk {
    fn on(directory: &Path, image: &Path) -> anyhow::Result<Option<Self>> {
        let run = |script: &str| Command::new("sh").args(["-ec", script]).arg(directory).arg(image).status();
        if !run("truncate -s 16M $1 && mkfs.ext4 -q $1 && mkdir $1.at && mount -o loop $1 $1.at && umount $1.at")?.success() {
            return Ok(None);
        }
        let disk = Self(directory.to_owned());
        let mounted = run("cp $0/resolv.conf $1.conf; mount -o loop $1 $0; chmod 700 $0; mv $1.conf $0/resolv.conf; \
                           : > $0/agent.log; : > $1.log; mount --bind $1.log $0/agent.log")?;
        ensure!(mounted.success(), "cannot mount {} on {}", image.display(), directory.display());
        Ok(Some(disk))
    }

    fn freeze(&self) -> anyhow::Result<()> {
        self.fsfreeze("-f")
    }

    fn thaw(&self) -> anyhow::Result<()> {
        self.fsfreeze("-u")
    }

    fn fsfreeze(&self, way: &str) -> anyhow::Result<()> {
        let done = Command::new("fsfreeze").arg(way).arg(&self.0).status()?;
        ensure!(done.success(), "fsfreeze {way}: {done}");
        Ok(())
    }
}

impl Drop for StillDisk {
    fn drop(&mut self) {
        let _ = Command::new("fsfreeze").arg("-u").arg(&self.0).output();
        let _ = Command::new("umount").arg("-l").arg(self.0.join("agent.log")).status();
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
