//! `isolate` and `release`: a request, and the wait for the host's own word.

use portcullis_schemas::Timestamp;
use portcullis_schemas::events::{Action, For, Posture, Request};
use portcullis_schemas::time::Span;
use serde_json::json;

use super::ask;
use super::operator::principal;
use super::outcome::{self, Report};
use crate::client::Client;
use crate::failure::{Exit, Failure};
use crate::find::find;
use crate::screen::Screen;
use crate::wait::{self, Ended, Wanted};

#[derive(clap::Args, Clone, Debug)]
pub struct IsolateArgs {
    /// Host id, name or address
    #[arg(value_name = "HOST")]
    pub host: String,
    #[command(flatten)]
    pub why: WhyArgs,
    /// Incident that it belongs to
    #[arg(long, value_name = "INCIDENT", value_parser = name)]
    pub incident: Option<String>,
    /// Ticket that goes with it
    #[arg(long, value_name = "TICKET", value_parser = name)]
    pub ticket: Option<String>,
    /// How long, as 30m, 8h, 1d12h, or never; without it, as the policy says
    #[arg(long = "for", value_name = "DURATION")]
    pub duration: Option<For>,
    /// Isolate it although it is protected
    #[arg(long)]
    pub override_protected: bool,
    #[command(flatten)]
    pub wait: WaitArgs,
}

#[derive(clap::Args, Clone, Debug)]
pub struct ReleaseArgs {
    /// Host id, name or address
    #[arg(value_name = "HOST")]
    pub host: String,
    #[command(flatten)]
    pub why: WhyArgs,
    #[command(flatten)]
    pub wait: WaitArgs,
}

/// A name of something elsewhere: more than blanks.
fn name(text: &str) -> Result<String, &'static str> {
    let text = text.trim();
    if text.is_empty() { Err("is empty: name one, or leave the option out") } else { Ok(text.to_owned()) }
}

#[derive(clap::Args, Clone, Debug)]
pub struct WhyArgs {
    /// Why; for people
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
    /// Who asks; without it, the login name
    #[arg(long, env = "PORTCULLIS_OPERATOR", value_name = "NAME")]
    pub operator: Option<String>,
}

#[derive(clap::Args, Clone, Debug)]
pub struct WaitArgs {
    /// How long to wait for the host to confirm, from when the request is stored
    #[arg(long, value_name = "DURATION", default_value = "15s", conflicts_with = "no_wait")]
    pub wait: Span,
    /// Return once the request is stored
    #[arg(long)]
    pub no_wait: bool,
}

pub async fn isolate<C: Client>(args: &IsolateArgs, client: &C, screen: &mut Screen, now: Timestamp) -> Result<Exit, Failure> {
    if args.duration == Some(For::Span(Span::seconds(0))) {
        return Err(Failure::Usage { problem: "--for is zero".into(), hint: "write 30m, 8h, 7d or never".into() });
    }
    let request = Request {
        duration: args.duration,
        reason: args.why.reason.clone(),
        incident: args.incident.clone(),
        ticket: args.ticket.clone(),
        override_protected: args.override_protected,
        ..Request::new(Action::Isolate, principal(args.why.operator.as_deref())?)
    };
    act(&args.host, request, Posture::Isolated, &args.wait, client, screen, now).await
}

pub async fn release<C: Client>(args: &ReleaseArgs, client: &C, screen: &mut Screen, now: Timestamp) -> Result<Exit, Failure> {
    let request =
        Request { reason: args.why.reason.clone(), ..Request::new(Action::Release, principal(args.why.operator.as_deref())?) };
    act(&args.host, request, Posture::Open, &args.wait, client, screen, now).await
}

async fn act<C: Client>(
    wanted: &str,
    mut request: Request,
    posture: Posture,
    args: &WaitArgs,
    client: &C,
    screen: &mut Screen,
    now: Timestamp,
) -> Result<Exit, Failure> {
    let view = find(client, wanted, now).await?;
    request.host = Some(view.host.clone());
    let (principal, action) = (request.operator.clone(), request.action);
    let (event, input) = ask::event(request, now);
    if args.no_wait {
        let sequence = client.request(&principal, &event).await?;
        if screen.is_json() {
            let stored = json!({
                "action": action, "host": view.host, "request": input, "request_sequence": sequence,
                "outcome": "stored", "exit_code": Exit::Done.code(),
            });
            screen.document(&stored)?;
        } else {
            screen.line(&format!("{}: request {} is stored", view.host, event.id))?;
        }
        return Ok(Exit::Done);
    }
    let limit = std::time::Duration::from_secs(args.wait.as_secs());
    let wanted = Wanted { principal: &principal, event: &event, input, posture, limit };
    let Ended { outcome, decision, interrupted } = wait::send(client, &wanted, screen).await?;
    // For the report only: that it fails does not change what happened.
    let after = client.host(&view.host).await.unwrap_or(view);
    let given_up = if interrupted { "stopped waiting on Ctrl-C".to_owned() } else { format!("no confirmation in {}", args.wait) };
    let request = &event.data;
    outcome::print(&Report { action, posture, input: wanted.input, request, given_up, outcome, decision, after }, screen)
}
