//! `policy apply` and `policy rollback`: another policy, by a request that names the one that it replaces.

use std::path::PathBuf;
use std::time::Duration;

use portcullis_schemas::Timestamp;
use portcullis_schemas::events::{Action, Reason, Request};
use portcullis_schemas::time::Span;
use serde::Serialize;

use super::effect::{self, Effect};
use super::texts::{self, Text, short};
use super::{difference, invalid};
use crate::client::Client;
use crate::failure::{Exit, Failure};
use crate::screen::Screen;
use crate::verbs::act::WhyArgs;
use crate::verbs::ask::{self, Answered};
use crate::verbs::operator::principal;
use crate::words;

/// So many hosts are named one by one.
const SHOWN: usize = 20;

#[derive(clap::Args, Clone, Debug)]
pub struct ApplyArgs {
    /// The policy; - for standard input
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Refused unless this policy is active: its hash, or the beginning of it; without it, the one that is active now
    #[arg(long, value_name = "HASH")]
    pub replaces: Option<String>,
    #[command(flatten)]
    pub how: HowArgs,
}

#[derive(clap::Args, Clone, Debug)]
pub struct RollbackArgs {
    /// The hash, or the beginning of it; without it, the policy that was active before
    #[arg(long, value_name = "HASH")]
    pub to: Option<String>,
    #[command(flatten)]
    pub how: HowArgs,
}

#[derive(clap::Args, Clone, Debug)]
pub struct HowArgs {
    #[command(flatten)]
    pub why: WhyArgs,
    /// Say what would change, and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// How long to wait for the answer
    #[arg(long, value_name = "DURATION", default_value = "15s")]
    pub wait: Span,
}

#[derive(Serialize)]
struct Document<'a> {
    hash: &'a str,
    replaces: Option<&'a str>,
    dry_run: bool,
    changes: &'a [String],
    /// Hosts that are isolated now and would be isolated otherwise. Nothing changes for them.
    isolated_hosts: &'a [Effect],
    answer: Option<&'a Answered>,
}

pub async fn apply<C: Client>(args: &ApplyArgs, client: &C, screen: &mut Screen, now: Timestamp) -> Result<Exit, Failure> {
    let text = Text::of_file(&args.file)?;
    let history = texts::history(client).await?;
    let replaces = match &args.replaces {
        Some(wanted) => Some(texts::hash_of(&history, wanted)?),
        None => texts::active(&history).map(str::to_owned),
    };
    send(&text, replaces, texts::active(&history), &args.how, client, screen, now).await
}

pub async fn rollback<C: Client>(args: &RollbackArgs, client: &C, screen: &mut Screen, now: Timestamp) -> Result<Exit, Failure> {
    let history = texts::history(client).await?;
    let active = texts::active(&history);
    let to = match &args.to {
        Some(wanted) => texts::hash_of(&history, wanted)?,
        None => texts::before(&history, active)
            .ok_or_else(|| Failure::NoPolicy("no other policy was active before".into()))?
            .to_owned(),
    };
    let text = texts::find(client, &history, &to).await?;
    send(&text, active.map(str::to_owned), active, &args.how, client, screen, now).await
}

async fn send<C: Client>(
    text: &Text,
    replaces: Option<String>,
    active: Option<&str>,
    how: &HowArgs,
    client: &C,
    screen: &mut Screen,
    now: Timestamp,
) -> Result<Exit, Failure> {
    let policy = match portcullis_policy::Policy::parse(&text.text) {
        Ok(policy) => policy,
        Err(errors) => return invalid(&text.name, &errors, screen),
    };
    let failing = policy.failing_tests();
    if !failing.is_empty() {
        return invalid(&text.name, &failing, screen);
    }
    let principal = principal(how.why.operator.as_deref())?;
    let old = match active {
        Some(hash) => client.policy_text(hash).await?.and_then(|text| portcullis_policy::Policy::parse(&text).ok()),
        None => None,
    };
    let changes = old.as_ref().map(|old| difference::words(old, &policy)).unwrap_or_default();
    let effects = effect::of(&client.fleet().await?.hosts, old.as_ref(), &policy);
    if !screen.is_json() {
        policy.warnings().iter().for_each(|warning| screen.warn(&format!("{}: {warning}", text.name)));
        match active {
            Some(active) if active == text.hash => {}
            Some(active) => screen.line(&format!("policy {} in place of {}", short(&text.hash), short(active)))?,
            None => screen.line(&format!("policy {}; none was active", short(&text.hash)))?,
        }
        changes.iter().try_for_each(|line| screen.line(&format!("  {line}")))?;
        tell(&effects, screen)?;
    }
    let answer = match how.dry_run {
        true => None,
        false => {
            client.keep_policy(&text.hash, &text.text).await?;
            let request = Request {
                reason: how.why.reason.clone(),
                policy: Some(text.hash.clone()),
                replaces: replaces.clone(),
                ..Request::new(Action::ActivatePolicy, principal)
            };
            Some(ask::send(request, Duration::from_secs(how.wait.as_secs()), client, screen, now).await?)
        }
    };
    let exit = answer.as_ref().map_or(Exit::Done, Answered::exit);
    if screen.is_json() {
        let (hash, replaces) = (text.hash.as_str(), replaces.as_deref());
        let answer = answer.as_ref();
        screen.document(&Document {
            hash,
            replaces,
            dry_run: how.dry_run,
            changes: &changes,
            isolated_hosts: &effects,
            answer,
        })?;
        return Ok(exit);
    }
    match (answer, exit) {
        (None, _) => screen.line("nothing was applied (--dry-run)")?,
        (Some(answer), Exit::Done) if answer.outcome == "unchanged" => {
            screen.line(&format!("policy {} is active already", short(&text.hash)))?;
        }
        (Some(_), Exit::Done) => screen.line(&format!("policy {} is active", short(&text.hash)))?,
        (Some(answer), _) => screen.complain(&format!("policy {}: {}", short(&text.hash), answer.message), Some(&hint(&answer))),
    }
    Ok(exit)
}

fn tell(effects: &[Effect], screen: &mut Screen) -> Result<(), Failure> {
    if effects.is_empty() {
        return Ok(());
    }
    let hosts = words::count(effects.len() as u64, "host that is isolated now", "hosts that are isolated now");
    screen.line(&format!("nothing changes for {hosts}; by this policy:"))?;
    for effect in effects.iter().take(SHOWN) {
        screen.line(&format!("  {}: {}", effect.host, effect.changes.join("; ")))?;
    }
    match effects.len().saturating_sub(SHOWN) {
        0 => Ok(()),
        more => screen.line(&format!("  and {more} more; --json has all")),
    }
}

fn hint(answer: &Answered) -> String {
    match answer.decision.as_ref().map(|decision| &decision.reason) {
        None => "an orchestrator decides on it as soon as it runs; see `portcullis policy history`".into(),
        Some(Reason::PolicyMoved { .. }) => "look at `portcullis policy diff`, then apply it again".into(),
        Some(Reason::BadPolicy { .. }) => {
            "orchestrator and this program are of different versions? `portcullis policy check FILE`".into()
        }
        Some(Reason::OperatorMismatch { .. }) => "say with --operator who these credentials belong to".into(),
        _ => "`portcullis policy history` tells which policy is active".into(),
    }
}
