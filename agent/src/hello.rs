//! Who I am: said on each connection and every 30 seconds, never stored.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use portcullis_schemas::envelope::{self, Event};
use portcullis_schemas::events::{Hello, Level, Posture};
use portcullis_schemas::{HostId, ids};
use tokio::sync::watch;
use tokio::time::sleep;

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

    fn hello(&self, now: &Snapshot) -> Hello {
        Hello {
            host: self.host.clone(),
            hostname: kernel("hostname"),
            ips: addresses().iter().take(MOST_ADDRESSES).map(ToString::to_string).collect(),
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
    for count in 0u64.. {
        link.up().await;
        let hello = identity.hello(&snapshot.borrow().clone());
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

/// Addresses outside loopback, as the kernel lists them for this network namespace.
fn addresses() -> Vec<IpAddr> {
    let v4 = fs::read_to_string("/proc/net/fib_trie").map(|text| local_v4(&text)).unwrap_or_default();
    let v6 = fs::read_to_string("/proc/net/if_inet6").map(|text| local_v6(&text)).unwrap_or_default();
    let mut all: Vec<IpAddr> = v4.into_iter().chain(v6).filter(|address| !address.is_loopback()).collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// `|-- ADDRESS`, then a line `/32 host LOCAL` for the host's own.
fn local_v4(text: &str) -> Vec<IpAddr> {
    let mut found = Vec::new();
    let mut last = None;
    for line in text.lines().map(str::trim) {
        match line.strip_prefix("|-- ") {
            Some(address) => last = address.parse::<Ipv4Addr>().ok(),
            None if line == "/32 host LOCAL" => found.extend(last.map(IpAddr::from)),
            None => {}
        }
    }
    found
}

/// 32 hex digits, then index, prefix length, scope, flags and the device.
fn local_v6(text: &str) -> Vec<IpAddr> {
    let of = |line: &str| u128::from_str_radix(line.split_whitespace().next()?, 16).ok();
    text.lines().filter_map(of).map(|bits| IpAddr::from(Ipv6Addr::from(bits))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_addresses_are_found_in_what_the_kernel_lists() {
        let trie = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 10.0.0.0\n        /24 link UNICAST\n     |-- 10.0.0.5\n        /32 host LOCAL\n";
        assert_eq!(local_v4(trie), ["10.0.0.5".parse::<IpAddr>().unwrap()]);
        let list = "fe800000000000000000000000000001 02 40 20 80 eth0\n00000000000000000000000000000001 01 80 10 80 lo\n";
        assert_eq!(local_v6(list), ["fe80::1".parse::<IpAddr>().unwrap(), "::1".parse().unwrap()]);
    }

    #[test]
    fn the_os_has_its_pretty_name() {
        assert_eq!(os_name("NAME=\"Debian\"\nPRETTY_NAME=\"Debian GNU/Linux 12\"\n"), "Debian GNU/Linux 12");
        assert_eq!(os_name("NAME=Alpine\n"), "Alpine");
    }
}
