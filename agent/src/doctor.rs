//! `doctor`: what this host can hold and what it cannot, each finding with what helps. Looks, asks the kernel, and changes nothing.

mod broker;
mod cgroup;
mod files;
mod firewalls;
mod kernel;
mod mounts;
mod namespaces;
mod posture;
mod programs;
mod sockets;
mod tables;

use std::fmt;
use std::path::PathBuf;

use portcullis_schemas::HostId;
use portcullis_schemas::events::Level;
use portcullis_schemas::terminal::clean;
use serde::Serialize;

use crate::broker::servers::Server;
use crate::local::status::UNSIGNED;

/// What is looked at, and with which of the flags of `run`.
#[derive(Debug)]
pub struct Config {
    pub host: HostId,
    pub state_dir: PathBuf,
    /// Empty where none was given.
    pub servers: Vec<Server>,
    pub level: Level,
    pub locks: bool,
}

/// How a finding bears on promise A of agent/POSTURES.md.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Grade {
    Ok,
    /// The promise is kept; something else does not work, or works less well.
    Warn,
    /// The promise is not kept.
    Fail,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at, as `level`.
    pub check: &'static str,
    pub grade: Grade,
    pub says: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, says: impl Into<String>) -> Self {
        Self { check, grade: Grade::Ok, says: says.into(), remedy: None }
    }

    fn warn(check: &'static str, says: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { check, grade: Grade::Warn, says: says.into(), remedy: Some(remedy.into()) }
    }

    fn fail(check: &'static str, says: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { check, grade: Grade::Fail, says: says.into(), remedy: Some(remedy.into()) }
    }

    /// What could not be looked at is unknown, and so not held for good.
    fn unseen(check: &'static str, error: impl fmt::Display) -> Self {
        Self::warn(check, format!("cannot be looked at: {error}"), "run the doctor as root on the host itself")
    }
}

#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub host: HostId,
    pub level: Level,
    /// Promise A of agent/POSTURES.md.
    pub keeps_promise_a: bool,
    pub findings: Vec<Finding>,
}

impl Report {
    fn new(host: HostId, level: Level, findings: Vec<Finding>) -> Self {
        let keeps_promise_a = findings.iter().all(|finding| finding.grade < Grade::Fail);
        Self { host, level, keeps_promise_a, findings }
    }
}

/// Looks at everything. Names of brokers are resolved, brokers are connected to where no agent is.
pub async fn examine(config: &Config) -> Report {
    let kernel = kernel::look(config);
    let mut findings = kernel::judge(&kernel);
    let agent = posture::agent(config).await;
    findings.push(cgroup::judge(&cgroup::look()));
    findings.extend(sockets::look());
    findings.extend(firewalls::judge(&firewalls::look(), kernel.locks));
    let (broker, reached) = broker::look(config, &agent).await;
    findings.extend(tables::look(reached));
    findings.extend(namespaces::look(kernel.level));
    findings.extend(programs::look());
    findings.extend(files::look(&config.state_dir));
    findings.extend(broker);
    findings.extend(posture::judge(config, &kernel, &agent));
    findings.push(Finding::warn("signatures", UNSIGNED, "use a broker that only the parties can reach, until orders are signed"));
    Report::new(config.host.clone(), kernel.level, findings)
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for finding in &self.findings {
            let grade = match finding.grade {
                Grade::Ok => "ok",
                Grade::Warn => "warn",
                Grade::Fail => "FAIL",
            };
            writeln!(f, "{grade:<5}{:<12}{}", finding.check, clean(&finding.says))?;
            if let Some(remedy) = &finding.remedy {
                writeln!(f, "{:17}-> {}", "", clean(remedy))?;
            }
        }
        let can = if self.keeps_promise_a { "can" } else { "cannot" };
        writeln!(f, "This host {can} be fully isolated (promise A of POSTURES.md); level {}.", self.level.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_failure_breaks_the_promise_and_warnings_do_not() {
        let report = |findings| Report::new("h1".parse().unwrap(), Level::Full, findings);
        assert!(report(vec![Finding::ok("a", ""), Finding::warn("b", "", "")]).keeps_promise_a);
        assert!(!report(vec![Finding::ok("a", ""), Finding::fail("b", "", "")]).keeps_promise_a);
    }

    #[test]
    fn a_report_is_read_by_people_and_programs() {
        let findings = vec![Finding::ok("kernel", "6.1"), Finding::fail("level", "inet\u{1b}", "newer kernel")];
        let report = Report::new("h1".parse().unwrap(), Level::Inet, findings);
        let text = report.to_string();
        assert_eq!(
            text,
            "ok   kernel      6.1\nFAIL level       inet\u{fffd}\n                 -> newer kernel\n\
             This host cannot be fully isolated (promise A of POSTURES.md); level inet.\n"
        );
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(
            json["findings"][1],
            serde_json::json!({"check": "level", "grade": "fail", "says": "inet\u{1b}", "remedy": "newer kernel"})
        );
        assert_eq!((&json["keeps_promise_a"], &json["level"]), (&false.into(), &"inet".into()));
    }
}
