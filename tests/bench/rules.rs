//! The agent's own ruleset for an order, in the forms in which others apply it.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, ensure};
use nftables::schema::Nftables;
use nftables::types::NfFamily;
use portcullis_agent::cli::render;
use portcullis_agent::firewall::{Firewall, Kernel};
use portcullis_agent_core::compiled::CompiledRules;
use portcullis_agent_core::record::Broker;
use portcullis_agent_core::ruleset;
use portcullis_dev::{BROKER_PORT, HUB_V4, Netns, in_netns};
use portcullis_schemas::events::Posture;

pub struct Rules {
    /// The isolating transaction: all that the agent makes in several steps.
    isolating: Nftables<'static>,
    /// The transaction that opens.
    opening: Nftables<'static>,
    /// The inet part of the isolated host's ruleset, as a person would write it.
    pub text: Vec<u8>,
}

impl Rules {
    pub fn batch(&self, posture: Posture) -> Nftables<'static> {
        match posture {
            Posture::Isolated => self.isolating.clone(),
            Posture::Open => self.opening.clone(),
        }
    }

    /// Of the order in this file, on a host of the lab.
    pub fn of(order: &Path, resolv_conf: &Path, netns: &Netns) -> anyhow::Result<Self> {
        let broker = Broker { name: HUB_V4.to_string(), addresses: vec![SocketAddr::new(HUB_V4.into(), BROKER_PORT)] };
        let gate = in_netns(netns, || render::gate(order, &[resolv_conf.into()], vec![broker]))??;
        let (gate, _) = gate.context("the order opens")?;
        let rules = CompiledRules::new(gate);
        let steps = rules.prepare().chain(rules.finish());
        let objects = steps.flat_map(|batch| batch.objects.into_owned()).collect();
        let opening = ruleset::open(&[NfFamily::INet, NfFamily::NetDev]);
        let isolating = Nftables { objects };
        // By netlink, as the agent does it: nft 1.0.6 cannot read all of it as JSON. The text that it lists it reads.
        let apply =
            |batch: &Nftables<'_>| in_netns(netns, || Kernel::open()?.apply(batch))?.context("the kernel refuses the rules");
        apply(&isolating)?;
        let text = list(netns)?;
        apply(&opening)?;
        Ok(Self { isolating, opening, text })
    }
}

/// What nft lists, as it reads it: it lists the counter of an element whose set it declares without one, and a security mark as a number, and refuses
/// both. A person would take the mark of packets.
fn list(netns: &Netns) -> anyhow::Result<Vec<u8>> {
    let output = netns.command("/usr/sbin/nft").args(["-s", "list", "table", "inet", "portcullis"]).output()?;
    ensure!(output.status.success(), "nft list: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout)?.replace(" secmark ", " mark ");
    let mut in_elements = false;
    let mut read = String::new();
    for line in text.lines() {
        in_elements |= line.trim_start().starts_with("elements = {");
        read.push_str(&if in_elements { line.replace(" counter", "") } else { line.to_owned() });
        read.push('\n');
        in_elements &= !line.ends_with('}');
    }
    Ok(read.into_bytes())
}
