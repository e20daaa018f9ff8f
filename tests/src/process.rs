//! Processes of a test: started with a log, ended by their id, gone with the test.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};

use crate::until::until;

#[derive(Debug)]
pub struct Process {
    child: Child,
    pub log: PathBuf,
}

impl Process {
    /// Starts a program whose output goes to `log`.
    pub fn start(command: &mut Command, log: &Path) -> anyhow::Result<Self> {
        let out =
            File::options().create(true).append(true).open(log).with_context(|| format!("cannot write {}", log.display()))?;
        portcullis_dev::die_with_spawner(command);
        let child = command
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .spawn()
            .with_context(|| format!("cannot start {:?}", command.get_program()))?;
        Ok(Self { child, log: log.to_owned() })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("a pid")?;
        Ok(kill_process(pid, signal)?)
    }

    pub fn kill9(&mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// SIGTERM, and the end within 10 s.
    pub async fn stop(&mut self) -> anyhow::Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        let child = &mut self.child;
        let mut ended = || child.try_wait();
        until("a process ends on SIGTERM", Duration::from_secs(10), || {
            let status = ended();
            async move { Ok(status?) }
        })
        .await
    }

    pub fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Waits until the process has stopped itself (SIGSTOP).
    pub async fn stopped(&self) -> anyhow::Result<()> {
        stopped(self.pid()).await
    }

    pub fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- {}\n{}", self.log.display(), self.said());
        }
    }
}

/// Waits until a process has stopped itself with SIGSTOP (proc(5): state T).
pub async fn stopped(pid: u32) -> anyhow::Result<()> {
    until("the process stops itself at the step", Duration::from_secs(20), || async move {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let state = stat.rsplit(')').next().unwrap_or_default().trim_start().chars().next();
        Ok((state == Some('T')).then_some(()))
    })
    .await
}

pub fn signal(pid: u32, signal: Signal) -> anyhow::Result<()> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).context("a pid")?;
    Ok(kill_process(pid, signal)?)
}
