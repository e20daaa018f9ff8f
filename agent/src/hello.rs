//! Who I am: said on each connection and every 30 seconds, never stored.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::time::Duration;

use portcullis_schemas::envelope::{self, Event};
use portcullis_schemas::events::{Hello, Level, Posture};
use portcullis_schemas::{HostId, ids};
use tokio::sync::watch;
use tokio::time::sleep;

use crate::addresses::{self, Addresses};
use crate::firewall::leaks;
use crate::jitter;
use crate::nats::Link;

const EVERY: Duration = Duration::from_secs(30);
const MOST_ADDRESSES: usize = 256;

/// What changes while the agent runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    pub generation: u64,
    pub posture: Posture,
    pub level: Level,
}

/// What is known from the start.
#[derive(Clone, Debug)]
pub struct Identity {
    pub host: HostId,
    pub labels: BTreeMap<String, String>,
    pub boot_id: String,
    /// Random per process.
    pub instance: String,
    pub agent_version: String,
}

impl Identity {
    pub fn source(&self) -> String {
        format!("/portcullis/agent/{}", self.host)
    }

    fn hello(&self, now: &Snapshot, addresses: &Addresses) -> Hello {
        let some = |ips: &[IpAddr]| ips.iter().take(MOST_ADDRESSES).map(ToString::to_string).collect();

        Hello {
            host: self.host.clone(),
            hostname: kernel("hostname"),
            ips: some(&addresses.all),
            internal_ips: some(&addresses.internal),
            os: fs::read_to_string("/etc/os-release").map(|text| os_name(&text)).unwrap_or_default(),
            kernel: kernel("osrelease"),
            agent_version: self.agent_version.clone(),
            boot_id: self.boot_id.clone(),
            instance: self.instance.clone(),
            level: now.level,
            leaks: leaks(now.level).into_iter().map(str::to_owned).collect(),
            labels: self.labels.clone(),
            roles: Vec::new(),
            generation: now.generation,
            posture: now.posture,
            tells_last_order: true,
        }
    }
}

/// Says hello for ever.
pub async fn run(identity: Identity, mut link: Link, snapshot: watch::Receiver<Snapshot>) {
    let subject = link.prefix.hello(&identity.host);
    let mut addresses = Addresses::default();
    for count in 0u64.. {
        link.up().await;
        match addresses::read() {
            Ok(read) => addresses = read,
            Err(error) => tracing::warn!(%error, "addresses of this host not read: hello repeats the last ones"),
        }
        let hello = identity.hello(&snapshot.borrow().clone(), &addresses);
        if let Err(error) = say(&identity, &link, &subject, hello, count).await {
            tracing::warn!(error = format!("{error:#}"), "cannot say hello");
        }
        let pause = jitter::between(&identity.host, "hello", count, EVERY.mul_f32(0.8), EVERY.mul_f32(1.2));
        tokio::select! {
            () = sleep(pause) => {}
            () = link.changed() => {}
        }
    }
}

async fn say(identity: &Identity, link: &Link, subject: &str, data: Hello, count: u64) -> anyhow::Result<()> {
    let event = Event {
        id: ids::digest([identity.host.as_str(), &identity.instance, &count.to_string()])[..32].to_owned(),
        source: identity.source(),
        subject: Some(identity.host.to_string()),
        time: Some(crate::clock::wall()),
        traceparent: None,
        correlation: None,
        causation: None,
        data,
    };
    let body = envelope::encode(&event)?;
    link.client().publish_with_headers(subject.to_owned(), crate::nats::headers(), body.into()).await?;
    Ok(())
}

/// A random id from the kernel.
pub fn random_id() -> String {
    kernel("random/uuid")
}

fn kernel(name: &str) -> String {
    fs::read_to_string(format!("/proc/sys/kernel/{name}")).map(|text| text.trim().to_owned()).unwrap_or_default()
}

fn os_name(text: &str) -> String {
    let of =
        |key: &str| text.lines().find_map(|line| line.strip_prefix(key)).map(|value| value.trim_matches(['"', '\'']).to_owned());
    of("PRETTY_NAME=").or_else(|| of("NAME=")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_os_has_its_pretty_name() {
        assert_eq!(os_name("NAME=\"Debian\"\nPRETTY_NAME=\"Debian GNU/Linux 12\"\n"), "Debian GNU/Linux 12");
        assert_eq!(os_name("NAME=Alpine\n"), "Alpine");
    }
}
