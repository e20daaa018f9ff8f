//! The agent's own ruleset for an order, in the forms in which others apply it.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};
use nftables::schema::Nftables;
use nftables::types::NfFamily;
use portcullis_agent_core::ruleset;
use portcullis_lab::{BROKER_PORT, HUB_V4, Netns};
use portcullis_tests::place::program;

pub struct Rules {
    /// The isolating transaction, as the agent brings it to the kernel.
    pub batch: Nftables<'static>,
    /// The transaction that opens.
    pub opening: Nftables<'static>,
    /// The inet part of the isolated host's ruleset, as a person would write it.
    pub text: Vec<u8>,
}

impl Rules {
    /// Of the order in this file, on a host of the lab.
    pub fn of(order: &Path, resolv_conf: &Path, netns: &Netns) -> anyhow::Result<Self> {
        let mut command = netns.command(program("portcullis-agent")?);
        command.arg("render").arg("--order").arg(order).arg("--resolv-conf").arg(resolv_conf);
        command.args(["--nats", &format!("nats://{HUB_V4}:{BROKER_PORT}")]);
        let rendered = out(&mut command, b"")?;
        let batch: Nftables<'static> = serde_json::from_value(serde_json::from_slice(&rendered)?)?;
        let opening = ruleset::open(&[NfFamily::INet, NfFamily::NetDev]);
        let nft = |args: &[&str], input: &[u8]| out(netns.command("/usr/sbin/nft").args(args), input);
        nft(&["-j", "-f", "-"], &rendered)?;
        let text = nft(&["-s", "list", "table", "inet", "portcullis"], b"")?;
        nft(&["-j", "-f", "-"], &serde_json::to_vec(&opening)?)?;
        Ok(Self { batch, opening, text })
    }
}

fn out(command: &mut Command, input: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    child.stdin.take().context("no stdin")?.write_all(input)?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(output.stdout)
}
