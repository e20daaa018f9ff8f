//! The agent's own ruleset for an order, in the forms in which others apply it.

use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};
use nftables::schema::Nftables;
use nftables::types::NfFamily;
use portcullis_agent::cli::render;
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
        let nft = |args: &[&str], input: &[u8]| out(netns.command("/usr/sbin/nft").args(args), input);
        nft(&["-j", "-f", "-"], &serde_json::to_vec(&rules.whole())?)?;
        let text = nft(&["-s", "list", "table", "inet", "portcullis"], b"")?;
        nft(&["-j", "-f", "-"], &serde_json::to_vec(&opening)?)?;
        Ok(Self { isolating: Nftables { objects }, opening, text })
    }
}

fn out(command: &mut Command, input: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    child.stdin.take().context("no stdin")?.write_all(input)?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(output.stdout)
}
