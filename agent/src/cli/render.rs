//! `render`: the rules of an order, without touching the kernel.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use nftables::types::NfFamily;
use portcullis_agent_core::compiled::CompiledRules;
use portcullis_agent_core::gate::{Gate, Netdev, Proof};
use portcullis_agent_core::record::{Broker, FrozenFacts};
use portcullis_agent_core::ruleset;
use portcullis_schemas::events::{Order, Payload, Posture};
use portcullis_schemas::{envelope, json};

use crate::host::{devices, dns, facts, places};

/// The nftables JSON of the order in `path`, and what of it could not be resolved on this host.
pub fn render(path: &Path, resolv_conf: &[PathBuf], brokers: Vec<Broker>) -> anyhow::Result<(String, Vec<String>)> {
    Ok(match gate(path, resolv_conf, brokers)? {
        Some((gate, problems)) => (serde_json::to_string_pretty(&ruleset::json(&CompiledRules::new(gate).whole())?)?, problems),
        None => (serde_json::to_string_pretty(&ruleset::open(&[NfFamily::INet, NfFamily::NetDev]))?, Vec::new()),
    })
}

/// The gate of the order in `path` on this host, and what of it could not be resolved. None: the order opens.
pub fn gate(path: &Path, resolv_conf: &[PathBuf], brokers: Vec<Broker>) -> anyhow::Result<Option<(Gate, Vec<String>)>> {
    let order = order(&read(path)?).with_context(|| format!("{} holds no order", path.display()))?;
    if order.posture == Posture::Open {
        return Ok(None);
    }
    let mut frozen = FrozenFacts { brokers, agent_uid: rustix::process::geteuid().as_raw(), ..facts::gather(resolv_conf) };
    places::locate(&mut frozen, &order.exclusions);
    let names = places::unknown_names(&frozen, &order.exclusions);
    let found = dns::resolve(&names, &frozen.name_servers(), places::BEFORE_THE_GATE);
    places::merge(&mut frozen.names, found);
    // An example: each isolation has one of its own, which is not shown.
    frozen.proof = Some(Proof::new(1));
    let (mut gate, problems) = frozen.gate(&order, Duration::ZERO);
    let devices = devices::list().context("cannot list the network devices")?;
    gate.netdev = Some(Netdev { egress: true, devices, ..Netdev::default() });
    Ok(Some((gate, problems.iter().map(ToString::to_string).collect())))
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    let mut body = Vec::new();
    if path == Path::new("-") {
        std::io::stdin().read_to_end(&mut body).context("cannot read the order from stdin")?;
    } else {
        body = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    }
    Ok(body)
}

/// A CloudEvent, or its data alone.
fn order(body: &[u8]) -> anyhow::Result<Order> {
    let value = json::parse(body)?;
    if value.get("specversion").is_some() {
        return Ok(envelope::decode::<Order>(std::iter::empty(), body)?.data);
    }
    let order: Order = serde_json::from_value(value)?;
    order.check().map_err(anyhow::Error::msg)?;
    Ok(order)
}
