//! The agent of this host, and what its posture file says.

use portcullis_agent_core::record::{Broker, Fault, StoredRecord};
use portcullis_schemas::events::{Level, Posture};

use portcullis_schemas::HostId;

use super::kernel::Seen;
use super::{Config, Finding};
use crate::disk::brokers::recall;
use crate::disk::posture_file::PostureFile;
use crate::host::clock::Clock;
use crate::local::socket::{self, Answer, Request};
use crate::local::status::Status;

const AGENT: &str = "agent";
const FILE: &str = "posture";

#[derive(Debug)]
pub(super) struct Agent {
    /// What a running one says of itself.
    pub status: Result<Option<Status>, String>,
    pub stored: StoredRecord,
    pub faults: Vec<String>,
    pub remembered: Vec<Broker>,
    /// The user as whom it runs.
    pub uid: u32,
    pub boot_id: String,
}

impl Agent {
    pub fn connected(&self) -> Option<bool> {
        self.status.as_ref().ok()?.as_ref()?.connected
    }
}

pub(super) async fn agent(config: &Config) -> Agent {
    let status = match socket::ask(&config.state_dir, &Request::Status).await {
        Ok(Some(Answer::Status(status))) => Ok(Some(*status)),
        Ok(Some(other)) => Err(format!("it answered {other:?}")),
        Ok(None) => Ok(None),
        Err(error) => Err(format!("{error:#}")),
    };
    let file = PostureFile::new(&config.state_dir);
    let (stored, faults) = file.read(&config.host);
    Agent {
        status,
        remembered: recall(&file, &stored),
        stored,
        // Another host's record is told of the standing one.
        faults: faults.iter().filter(|fault| !matches!(fault, Fault::Foreign { .. })).map(ToString::to_string).collect(),
        uid: file.owner(),
        boot_id: Clock::new().boot_id().to_owned(),
    }
}

pub(super) fn judge(config: &Config, kernel: &Seen, agent: &Agent) -> Vec<Finding> {
    let mut findings = vec![running(kernel.level, &agent.status)];
    findings.extend(agent.faults.iter().map(|fault| {
        Finding::warn(FILE, fault.clone(), "restart the agent: it reports its state, and the orchestrator sends the order again")
    }));
    let stands = kernel.unavailable.is_none().then_some(kernel.stands);
    findings.push(file(&config.host, &agent.stored, stands, &agent.boot_id));
    findings
}

/// `most`: what the kernel has.
fn running(most: Level, status: &Result<Option<Status>, String>) -> Finding {
    let status = match status {
        Err(error) => return Finding::warn(AGENT, format!("cannot be asked: {error}"), "be root; see the agent's log"),
        Ok(None) => {
            return Finding::warn(
                AGENT,
                "is not running: no order is received",
                "systemctl enable --now portcullis-restore portcullis-agent",
            );
        }
        Ok(Some(status)) => status,
    };
    let level = status.level.unwrap_or(Level::None);
    if status.posture != status.desired {
        let problems = status.problems.join("; ");
        return Finding::fail(
            AGENT,
            format!("should keep this host {} and does not: {problems}", status.desired.as_str()),
            "see `kernel`, `level` and the agent's log",
        );
    }
    if level < Level::Full && most == Level::Full {
        return Finding::fail(
            AGENT,
            format!("runs at level {}, and the kernel has more", level.as_str()),
            "start it again without --level (PORTCULLIS_LEVEL)",
        );
    }
    if !status.problems.is_empty() {
        return Finding::warn(AGENT, format!("runs, with problems: {}", status.problems.join("; ")), "see the agent's log");
    }
    Finding::ok(AGENT, format!("runs, {}, level {}", status.posture.as_str(), level.as_str()))
}

/// `stands`: whether a table of ours is in the kernel; None where it cannot be asked.
fn file(host: &HostId, stored: &StoredRecord, stands: Option<bool>, boot_id: &str) -> Finding {
    let record = match stored {
        StoredRecord::Never => return Finding::ok(FILE, "none yet: no order was ever accepted"),
        StoredRecord::Lost => {
            return Finding::warn(
                FILE,
                "neither copy can be read: this host is isolated",
                "start the agent, and release the host",
            );
        }
        StoredRecord::Known(record) => record,
    };
    if record.host != *host {
        return Finding::warn(
            FILE,
            format!("is of host {}, and this is {host}: the directory came with an image or a copy", record.host),
            format!("if this host is {host}, stop the agent, empty its directory and start it again"),
        );
    }
    if record.posture == Posture::Isolated && stands == Some(false) {
        let since = if record.mark.boot_id == boot_id { "and its rules are gone" } else { "of an earlier boot or a boot image" };
        return Finding::fail(
            FILE,
            format!("says isolated, {since}: this host is open"),
            "start the agent, or run `portcullis-agent restore`; enable portcullis-restore.service",
        );
    }
    Finding::ok(FILE, format!("{}, order no. {}", record.posture.as_str(), record.generation))
}

#[cfg(test)]
mod tests {
    use portcullis_agent_core::deadline::{Mark, Now};
    use portcullis_agent_core::record::{Record, Trace, VERSION};

    use super::super::Grade::{Fail, Ok as Good, Warn};
    use super::*;

    fn stored(posture: Posture) -> StoredRecord {
        let now = Now { wall: chrono::Utc::now(), broker: None, boot_ms: 1, boot_id: "b1".into() };
        StoredRecord::Known(Box::new(Record {
            version: VERSION,
            serial: 1,
            host: "h1".parse().unwrap(),
            generation: 3,
            posture,
            opened: None,
            order: None,
            trace: Trace::default(),
            frozen: None,
            mark: Mark::start(&now),
        }))
    }

    #[test]
    fn a_posture_that_is_not_this_hosts_or_not_in_force_is_named() {
        use Posture::{Isolated, Open};
        let table = [
            (StoredRecord::Never, "h1", Some(false), "b1", Good, "none yet"),
            (StoredRecord::Lost, "h1", Some(true), "b1", Warn, "neither copy"),
            (stored(Open), "h1", Some(false), "b1", Good, "open, order no. 3"),
            (stored(Isolated), "h1", Some(true), "b1", Good, "isolated, order no. 3"),
            (stored(Isolated), "h1", None, "b1", Good, "isolated, order no. 3"),
            (stored(Isolated), "h1", Some(false), "b1", Fail, "rules are gone"),
            (stored(Isolated), "h1", Some(false), "b2", Fail, "boot image"),
            (stored(Open), "h2", Some(false), "b1", Warn, "of host h1, and this is h2"),
        ];
        for (stored, host, stands, boot_id, grade, word) in table {
            let finding = file(&host.parse().unwrap(), &stored, stands, boot_id);
            assert!(finding.grade == grade && finding.says.contains(word), "{finding:?}");
        }
    }

    #[test]
    fn an_agent_that_holds_less_than_it_should_is_named() {
        let now = Now { wall: chrono::Utc::now(), broker: None, boot_ms: 1, boot_id: "b1".into() };
        let status = || Status {
            running: true,
            level: Some(Level::Full),
            ..Status::of(&"h1".parse().unwrap(), &stored(Posture::Open), &now)
        };
        let table = [
            (Ok(Some(status())), Good, "runs, open, level full"),
            (Ok(None), Warn, "is not running"),
            (Err("no".into()), Warn, "cannot be asked: no"),
            (Ok(Some(Status { level: Some(Level::Inet), ..status() })), Fail, "runs at level inet"),
            (
                Ok(Some(Status { desired: Posture::Isolated, problems: vec!["x".into()], ..status() })),
                Fail,
                "should keep this host isolated and does not: x",
            ),
            (Ok(Some(Status { problems: vec!["x".into()], ..status() })), Warn, "with problems: x"),
        ];
        for (status, grade, word) in table {
            let finding = running(Level::Full, &status);
            assert!(finding.grade == grade && finding.says.contains(word), "{finding:?}");
        }
    }
}
