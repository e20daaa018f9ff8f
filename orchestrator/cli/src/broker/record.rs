//! From a stored message to a record.

use portcullis_core::machine::Message;
use portcullis_schemas::Stream;
use portcullis_schemas::envelope::{self, Event};
use portcullis_schemas::events::Payload;
use portcullis_schemas::rejected::{Malformed, header};

use crate::client::{Record, Rejected, What};

pub fn decode<T: Payload>(headers: &[(String, String)], body: &[u8]) -> Result<Event<T>, Malformed> {
    envelope::decode(headers.iter().map(|(name, value)| (name.as_str(), value.as_str())), body)
}

pub fn record(stream: Stream, message: Message) -> Result<Record, String> {
    let (headers, body) = (message.headers.as_slice(), message.body.as_ref());
    let what = match stream {
        Stream::Detections => decode(headers, body).map(|event| What::Detection(Box::new(event))),
        Stream::Decisions => decode(headers, body).map(|event| What::Decision(Box::new(event))),
        Stream::Orders => decode(headers, body).map(|event| What::Order(Box::new(event))),
        Stream::States => decode(headers, body).map(|event| What::State(Box::new(event))),
        Stream::Notices => decode(headers, body).map(|event| What::Notice(Box::new(event))),
        Stream::Rejected => Ok(What::Rejected(rejected(headers, body.len()))),
        Stream::Requests | Stream::Releases | Stream::Inventory => {
            return Err(format!("records of {} are not shown", stream.token()));
        }
    };
    Ok(Record {
        sequence: message.sequence,
        stored_at: message.at,
        subject: message.subject,
        what: match message.malformed {
            Some((_, problem)) => What::Unreadable(Malformed::Headers(problem)),
            None => what.unwrap_or_else(What::Unreadable),
        },
    })
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
