//! The agent's own ruleset for an order, in the forms in which others apply it.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};
use portcullis_lab::{BROKER_PORT, HUB_V4, Netns};
use portcullis_tests::place::program;

pub struct Rules {
    /// The isolating transaction, as the agent gives it to nft.
    pub batch: Vec<u8>,
    /// The transaction that opens.
    pub opening: Vec<u8>,
    /// The isolated host's ruleset, as a person would write it.
    pub text: Vec<u8>,
}

impl Rules {
    /// Of the order in this file, on a host of the lab.
    pub fn of(order: &Path, resolv_conf: &Path, netns: &Netns) -> anyhow::Result<Self> {
        let mut command = netns.command(program("portcullis-agent")?);
        command.arg("render").arg("--order").arg(order).arg("--resolv-conf").arg(resolv_conf);
        command.args(["--nats", &format!("nats://{HUB_V4}:{BROKER_PORT}")]);
        let rendered: serde_json::Value = serde_json::from_slice(&out(&mut command, b"")?)?;
        let batch = serde_json::to_vec(&rendered)?;
        let table = serde_json::json!({ "family": "inet", "name": "portcullis" });
        let opening = serde_json::json!({ "nftables": [{ "add": { "table": table } }, { "delete": { "table": table } }] });
        let opening = serde_json::to_vec(&opening)?;
        let nft = |args: &[&str], input: &[u8]| out(netns.command("/usr/sbin/nft").args(args), input);
        nft(&["-j", "-f", "-"], &batch)?;
        let text = nft(&["-s", "list", "table", "inet", "portcullis"], b"")?;
        nft(&["-j", "-f", "-"], &opening)?;
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
