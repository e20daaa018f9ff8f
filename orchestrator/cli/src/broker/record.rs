//! From a stored message to records.

use portcullis_core::machine::Message;
use portcullis_schemas::envelope::{self, Event};
use portcullis_schemas::events::{Page, Payload};
use portcullis_schemas::rejected::{Malformed, header};
use portcullis_schemas::subjects::{PAGES, POLICY, TERM};
use portcullis_schemas::{HostId, Stream};

use crate::client::{Record, Rejected, What};
use crate::pages;

pub fn decode<T: Payload>(headers: &[(String, String)], body: &[u8]) -> Result<Event<T>, Malformed> {
    envelope::decode(headers.iter().map(|(name, value)| (name.as_str(), value.as_str())), body)
}

/// The records of one message; of a page those about `host`.
pub fn records(stream: Stream, message: Message, host: Option<&HostId>) -> Result<Vec<Record>, String> {
    let Message { subject, headers, malformed, body, at, sequence } = message;
    let (headers, body) = (headers.as_slice(), body.as_ref());
    let stored = |what| Record { sequence, stored_at: at, subject: subject.clone(), what };
    if let Some((_, problem)) = malformed {
        return Ok(vec![stored(What::Unreadable(Malformed::Headers(problem)))]);
    }
    let what = match (stream, subject.rsplit('.').next()) {
        (Stream::Decisions, Some(PAGES)) => match decode::<Page>(headers, body) {
            Ok(page) => return Ok(pages::records(page, host, stored)),
            Err(problem) => Err(problem),
        },
        (Stream::Decisions, Some(TERM)) => decode(headers, body).map(|event| What::Term(Box::new(event))),
        (Stream::Decisions, Some(POLICY)) => decode(headers, body).map(|event| What::PolicyActivated(Box::new(event))),
        (Stream::Decisions, _) => decode(headers, body).map(|event| What::Decision(Box::new(event))),
        // It is in both logs, and shown once.
        (Stream::Orders, Some(TERM)) => return Ok(Vec::new()),
        (Stream::Orders, _) => decode(headers, body).map(|event| What::Order(Box::new(event))),
        (Stream::Detections, _) => decode(headers, body).map(|event| What::Detection(Box::new(event))),
        (Stream::States, _) => decode(headers, body).map(|event| What::State(Box::new(event))),
        (Stream::Notices, _) => decode(headers, body).map(|event| What::Notice(Box::new(event))),
        (Stream::Rejected, _) => Ok(What::Rejected(rejected(headers, body.len()))),
        (Stream::Requests | Stream::Releases | Stream::Inventory, _) => {
            return Err(format!("records of {} are not shown", stream.token()));
        }
    };
    Ok(vec![stored(what.unwrap_or_else(What::Unreadable))])
}

fn rejected(headers: &[(String, String)], bytes: usize) -> Rejected {
    let of = |wanted: &str| headers.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.clone());
    Rejected {
        reason: of(header::REASON).unwrap_or_default(),
        detail: of(header::DETAIL).unwrap_or_default(),
        on: of(header::SUBJECT).unwrap_or_default(),
        stream: of(header::STREAM),
        sequence: of(header::SEQUENCE),
        bytes,
    }
}
