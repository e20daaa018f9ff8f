//! What a process costs while nothing happens, by /proc.

use std::fs;
use std::time::Duration;

use anyhow::Context;
use serde::Serialize;

#[derive(Debug, Serialize)]
pub struct Resident {
    pub name: &'static str,
    pub rss_mib: f64,
    pub anonymous_mib: f64,
    /// Over the idle time.
    pub cpu_ms: f64,
}

/// Waits for `time` and says what each process has meanwhile cost.
pub async fn watch(processes: &[(&'static str, u32)], time: Duration) -> anyhow::Result<Vec<Resident>> {
    let before = processes.iter().map(|(_, pid)| cpu(*pid)).collect::<anyhow::Result<Vec<_>>>()?;
    tokio::time::sleep(time).await;
    let measured = processes.iter().zip(before).map(|(&(name, pid), before)| {
        let cpu_ms = (cpu(pid)? - before).as_secs_f64() * 1000.0;
        Ok(Resident { name, rss_mib: memory(pid, "VmRSS:")?, anonymous_mib: memory(pid, "RssAnon:")?, cpu_ms })
    });
    measured.collect()
}

fn memory(pid: u32, key: &str) -> anyhow::Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(key)).with_context(|| format!("no {key} of {pid}"))?;
    let kibibytes: f64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kibibytes / 1024.0)
}

/// The time on a CPU, in nanoseconds, of all threads that live: /proc/PID/stat counts in ticks of 10 ms.
fn cpu(pid: u32) -> anyhow::Result<Duration> {
    let mut all = Duration::ZERO;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = fs::read_to_string(task?.path().join("schedstat")).context("no schedstat")?;
        all += Duration::from_nanos(text.split(' ').next().unwrap_or_default().parse()?);
    }
    Ok(all)
}
