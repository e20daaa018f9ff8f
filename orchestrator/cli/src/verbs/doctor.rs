//! `doctor`: what is wrong at this site, each finding with what to do. It looks, and changes nothing.

mod fleet;
mod logs;
mod senders;
#[cfg(test)]
mod tests;

use chrono::{TimeDelta, Utc};
use portcullis_schemas::Stream;
use portcullis_schemas::Timestamp;
use serde::Serialize;

use crate::client::{Beat, Client, Query};
use crate::failure::{Exit, Failure};
use crate::screen::{Cell, Paint, Screen, plain};
use crate::site::Site;
use crate::words;

/// Exit code 0: all well. 1: something is wrong.
#[derive(clap::Args, Clone, Debug)]
pub struct DoctorArgs {
    /// Print what is wrong, and nothing else
    #[arg(long)]
    pub quiet: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Grade {
    Ok,
    /// Isolation works; something else does not, or soon will not.
    Warn,
    /// Isolation, release or their records do not work as they should.
    Fail,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at, as `leader`.
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

    /// What could not be read is not held for good.
    fn unread(check: &'static str, failure: &Failure) -> Self {
        let remedy = failure.hint().unwrap_or_else(|| "see the log of nats-server".into());
        Self::fail(check, format!("cannot be read: {failure}"), remedy)
    }
}

#[derive(Serialize)]
struct Document<'a> {
    at: Timestamp,
    is_well: bool,
    findings: &'a [Finding],
}

/// Notices are looked at this far back.
const LATELY: TimeDelta = TimeDelta::hours(24);
const NOTICES: usize = 10_000;
/// A clock that is off by more makes times in reports hard to compare.
const CLOCK: TimeDelta = TimeDelta::seconds(5);

pub async fn run<C: Client>(
    args: &DoctorArgs,
    client: &C,
    screen: &mut Screen,
    now: Timestamp,
    beat: Option<&Beat>,
) -> Result<Exit, Failure> {
    let site = Box::pin(client.site()).await;
    let mut findings = vec![broker(&site), clock(&site)];
    findings.extend(logs::judge(&site, now));
    findings.extend(leader(&site, beat));
    findings.push(policy(beat));
    match Box::pin(client.fleet()).await {
        Ok(fleet) => findings.extend(fleet::judge(&fleet, Utc::now())),
        Err(failure) => findings.push(Finding::unread("hosts", &failure)),
    }
    findings.extend(senders::judge(&site));
    let query = Query { stream: Stream::Notices, host: None, since: now - LATELY, limit: NOTICES };
    match Box::pin(client.history(&query)).await {
        Ok(history) => findings.extend(senders::notices(&history)),
        Err(failure) => findings.push(Finding::unread("notices", &failure)),
    }
    let is_well = findings.iter().all(|finding| finding.grade == Grade::Ok);
    if screen.is_json() {
        screen.document(&Document { at: now, is_well, findings: &findings })?;
    } else {
        for finding in findings.iter().filter(|finding| !args.quiet || finding.grade > Grade::Ok) {
            print(finding, screen)?;
        }
    }
    Ok(if is_well { Exit::Done } else { Exit::Failed })
}

fn print(finding: &Finding, screen: &mut Screen) -> Result<(), Failure> {
    let grade = match finding.grade {
        Grade::Ok => (Paint::Good, "ok  "),
        Grade::Warn => (Paint::Warn, "warn"),
        Grade::Fail => (Paint::Bad, "FAIL"),
    };
    let cell = |(paint, text): (Paint, &str)| -> Cell { (paint, text.to_owned()) };
    screen.cells(&[cell(grade), plain(format!("  {:<10} ", finding.check)), plain(finding.says.clone())])?;
    match &finding.remedy {
        Some(remedy) => screen.line(&format!("{:17}do: {remedy}", "")),
        None => Ok(()),
    }
}

fn broker(site: &Site) -> Finding {
    let server = &site.server;
    match &server.refused {
        Some(why) => {
            Finding::fail("broker", why.clone(), "install a newer nats-server, with a jetstream section in its configuration")
        }
        None => Finding::ok("broker", format!("nats-server {} at {}", server.version, server.shown)),
    }
}

fn clock(site: &Site) -> Finding {
    match &site.clock_ahead {
        Err(failure) => Finding::unread("clock", failure),
        Ok(ahead) if ahead.abs() <= CLOCK => Finding::ok("clock", "the broker's clock and that of this machine agree"),
        Ok(ahead) => {
            let way = if *ahead < TimeDelta::zero() { "behind" } else { "ahead of" };
            let by = words::span(ahead.num_seconds().unsigned_abs());
            let says = format!("the broker's clock is {by} {way} that of this machine");
            Finding::warn("clock", says, "let NTP set both; deadlines go by the broker's, times shown here may not")
        }
    }
}

/// A leader's key is renewed every half a second, its heartbeat every five.
fn leader(site: &Site, beat: Option<&Beat>) -> Vec<Finding> {
    const LATE: TimeDelta = TimeDelta::seconds(5);
    let start = "start one (`portcullis serve`); where it runs, its log says what keeps it from leading";
    let mut found = Vec::new();
    let (key, term) = match (&site.leader, &site.term) {
        (Err(failure), _) | (_, Err(failure)) => return vec![Finding::unread("leader", failure)],
        (Ok(key), Ok(term)) => (key, term),
    };
    let age = |age: &TimeDelta| words::span(age.num_seconds().unsigned_abs());
    let described = term.as_ref().map_or_else(String::new, |term| {
        format!(", term {} since {}, version {}", term.term, words::date(term.since), term.config.version)
    });
    match (key, beat) {
        (None, _) => found.push(Finding::fail("leader", "no orchestrator leads: nothing is decided", start)),
        (Some((who, since)), _) if *since > LATE => {
            let says = format!("no orchestrator leads: {who} was heard {} ago{described}", age(since));
            found.push(Finding::fail("leader", says, start));
        }
        (Some((who, _)), Some(beat)) if beat.is_current() => {
            found.push(Finding::ok("leader", format!("{who}{described}, heartbeat {} ago", age(&beat.age))));
        }
        (Some((who, _)), _) => {
            let says = format!("{who}{described} holds the lead and sends no heartbeat");
            found.push(Finding::fail("leader", says, "see its log; restart it where it hangs: another takes over at once"));
        }
    }
    match &site.orchestrators {
        Err(failure) => found.push(Finding::unread("followers", failure)),
        Ok(all) => {
            let leads = key.as_ref().map(|(who, _)| who.as_str());
            let followers: Vec<_> = all.iter().filter(|one| Some(one.who.as_str()) != leads).collect();
            let behind = followers.iter().map(|one| one.behind).max().unwrap_or(0);
            found.push(match followers.len() {
                0 => Finding::ok(
                    "followers",
                    "none: no orchestrator takes over where the leader ends; a second `portcullis serve` would",
                ),
                many if behind > LAGS => Finding::warn(
                    "followers",
                    format!("{}, {behind} decisions behind", words::count(many as u64, "follower", "followers")),
                    "wait until it has read them; where that lasts, its machine or its connection is too slow",
                ),
                many => Finding::ok("followers", format!("{}, up to date", words::count(many as u64, "follower", "followers"))),
            });
        }
    }
    found
}

/// Messages of DECISIONS that a follower may have before it.
const LAGS: u64 = 10_000;

fn policy(beat: Option<&Beat>) -> Finding {
    let Some(beat) = beat else {
        let says = "not known: no heartbeat of an orchestrator names it";
        return Finding::fail("policy", says, "start an orchestrator, with --policy FILE");
    };
    let (active, refused) = (&beat.said.policy.hash, &beat.said.policy.refused);
    match (active, refused) {
        (Some(hash), None) => Finding::ok("policy", format!("{} is active", words::short(hash, 13))),
        (None, None) => {
            let says = "none is active: detections isolate no host and wait for a person";
            Finding::fail(
                "policy",
                says,
                "write one, check it with `portcullis policy check`, and give it to the orchestrator with --policy",
            )
        }
        (active, Some(refused)) => {
            let then = if active.is_some() { "the one before it stays active" } else { "none is active" };
            let says = format!(
                "{} was refused at {}: {}; {then}",
                refused.file,
                words::date(refused.at),
                words::short(&refused.problem, 200)
            );
            let remedy = "correct it, `portcullis policy check` it, and send SIGHUP to the orchestrator";
            if active.is_some() { Finding::warn("policy", says, remedy) } else { Finding::fail("policy", says, remedy) }
        }
    }
}

/// The first few of many, for a sentence.
fn few(all: &[String]) -> String {
    const SHOWN: usize = 5;
    let first = all.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    if all.len() > SHOWN { format!("{first} and {} more", all.len() - SHOWN) } else { first }
}
