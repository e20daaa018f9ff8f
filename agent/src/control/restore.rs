//! `restore`: what the posture file says is put in force before the network comes up. Neither a broker nor DNS is asked, and nothing is written:
//! the agent that starts later takes the tables over, counts the deadline on, and tells what stands.

use std::path::Path;

use anyhow::{Context, bail};
use portcullis_agent_core::record::{Broker, FrozenFacts, StoredRecord};
use portcullis_schemas::HostId;
use portcullis_schemas::events::{Level, Posture};

use crate::broker::servers::{self, Server};
use crate::disk::brokers::recall;
use crate::disk::posture_file::PostureFile;
use crate::firewall::enforce::{Enforcer, Outcome};
use crate::host::clock::Clock;
use crate::host::{facts, groups};

/// Some: the host is isolated, at this level. None: it is open, and nothing was done.
///
/// An error means that the host should be isolated and is not wholly; what could be enforced is.
pub fn restore(
    state_dir: &Path,
    host: &HostId,
    servers: &[Server],
    (most, locks): (Level, bool),
) -> anyhow::Result<Option<Level>> {
    // Without a directory the host never had an order. None is made: its place may be read-only, or not mounted yet.
    if !state_dir.try_exists().with_context(|| format!("--state-dir: cannot look for {}", state_dir.display()))? {
        return Ok(None);
    }
    let file = PostureFile::new(state_dir);
    let _lock = file.lock()?;
    let (stored, faults) = file.read(host);
    for fault in &faults {
        tracing::error!("{fault}");
    }
    if stored.posture() == Posture::Open {
        return Ok(None);
    }
    // Names are where they were; addresses need no asking.
    let remembered = recall(&file, &stored);
    let brokers = if servers.is_empty() { remembered } else { servers::known(servers, &remembered) };
    let mut enforcer = Enforcer::new(most, locks);
    let outcome = enforcer.isolate(&gate(&stored, brokers, file.owner()));
    match &enforcer.error {
        None if outcome == Outcome::Done => Ok(Some(enforcer.level)),
        error => bail!(
            "this host should be isolated and is not, or not wholly: {}; the agent retries when it starts",
            error.as_deref().unwrap_or("the rules could not be read back")
        ),
    }
}

fn gate(stored: &StoredRecord, brokers: Vec<Broker>, uid: u32) -> portcullis_agent_core::gate::Gate {
    let mut gate = match stored.record() {
        Some(record) => {
            let mut record = record.clone();
            if let (Some(frozen), Some(order)) = (&mut record.frozen, &record.order) {
                frozen.groups = groups::named(&order.exclusions);
            }
            record.gate(&Clock::new().now()).0
        }
        // Lost: the control channel alone, to where the brokers were.
        None => FrozenFacts { brokers, agent_uid: uid, ..FrozenFacts::default() }.bare(),
    };
    gate.proof.get_or_insert_with(facts::proof);
    gate
}
