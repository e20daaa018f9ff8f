//! The pause of automatic isolation: begun and ended by an operator, and over by its time.

use portcullis_schemas::events::{Action, Effect, For, NoticeKind, Reason, Request, Severity, Verdict};
use portcullis_schemas::time::Span;

use super::words::{applied, clock, why};
use super::{Door, Meta, Outcome, breaker};

const DEFAULT: Span = Span::hours(1);
/// Longer than that nobody watches over.
const LONGEST: Span = Span::hours(7 * 24);

pub fn decide(door: Door<'_>, meta: &Meta, request: &Request) -> Outcome {
    if request.host.is_some() {
        let problem = "leave it out: a pause is one of the whole fleet".to_owned();
        return door.answer(meta, None, Verdict::Refuse, Reason::Incomplete { member: "host".to_owned(), problem });
    }
    match request.action {
        Action::Pause => begin(door, meta, request),
        _ => match &request.breaker {
            Some(breaker) => breaker::reset(door, meta, request, breaker),
            None => end(door, meta, request),
        },
    }
}

fn begin(door: Door<'_>, meta: &Meta, request: &Request) -> Outcome {
    let Some(why) = why(request) else {
        let problem = "say why; other operators read it".to_owned();
        return door.answer(meta, None, Verdict::Refuse, Reason::Incomplete { member: "reason".to_owned(), problem });
    };
    let span = match request.duration {
        None => DEFAULT,
        Some(For::Span(span)) if span <= LONGEST => span,
        Some(_) => return door.answer(meta, None, Verdict::Refuse, Reason::TooLong { limit: LONGEST.to_string() }),
    };
    let until = meta.at + span.delta();
    let by = request.operator.clone();
    let text = format!("automatic isolation is paused by {by} until {}: {why}; portcullis resume ends it", clock(until));
    let effect = Effect::Paused { until, by, reason: Some(why) };
    applied(door, meta, Reason::Operator, effect, (NoticeKind::Paused, Severity::High, text))
}

fn end(door: Door<'_>, meta: &Meta, request: &Request) -> Outcome {
    if door.control.paused(meta.at).is_none() {
        return door.answer(meta, None, Verdict::Refuse, Reason::NotPaused);
    }
    let by = request.operator.clone();
    let text = format!("automatic isolation goes on: {by} ended the pause");
    applied(door, meta, Reason::Operator, Effect::Resumed { by }, (NoticeKind::Resumed, Severity::Medium, text))
}

/// Its time is over.
pub fn over(door: Door<'_>, meta: &Meta) -> Outcome {
    // An operator ended it meanwhile, or made it longer.
    let Some(pause) = door.control.pause().filter(|pause| pause.until <= meta.at) else { return Outcome::default() };
    let by = pause.by.clone();
    let text = format!("automatic isolation goes on: the pause by {by} is over");
    let reason = Reason::PauseOver { until: pause.until };
    applied(door, meta, reason, Effect::Resumed { by }, (NoticeKind::Resumed, Severity::Medium, text))
}
