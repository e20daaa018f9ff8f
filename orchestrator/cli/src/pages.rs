//! From a page to records: one for each whole decision and each group of plain inputs, in the order of the inputs.

use portcullis_schemas::HostId;
use portcullis_schemas::envelope::Event;
use portcullis_schemas::events::Page;

use crate::client::{Group, Record, What};

/// What a page says about `host`, or all of it; also what it says of inputs for which no host was found.
///
/// `stored` is the record of the page as far as it is the same for all of them.
pub fn records(page: Event<Page>, host: Option<&HostId>, stored: impl Fn(What) -> Record) -> Vec<Record> {
    let Page { stream, policy, seen, plain, .. } = &page.data;
    let group = |plain| Group { stream: stream.clone(), policy: policy.clone(), seen: seen.clone(), plain };
    let of = |about: Option<&HostId>| host.is_none_or(|host| about.is_none_or(|about| about == host));
    let groups = plain.iter().filter(|plain| of(Some(&plain.host))).filter_map(|plain| {
        let (first, _) = plain.sequences.first()?;
        Some((*first, What::Plain(Box::new(around(&page, group(plain.clone()))))))
    });
    let mut all: Vec<(u64, What)> = groups.collect();
    let envelope = around(&page, ());
    let whole = page.data.into_decisions().filter(|decision| of(decision.host.as_ref())).map(|decision| {
        let sequence = decision.sequence.unwrap_or(0);
        (sequence, What::Decision(Box::new(around(&envelope, decision))))
    });
    all.extend(whole);
    all.sort_by_key(|(sequence, _)| *sequence);
    all.into_iter().map(|(_, what)| stored(what)).collect()
}

/// An event with other data.
fn around<T, U>(event: &Event<T>, data: U) -> Event<U> {
    Event {
        id: event.id.clone(),
        source: event.source.clone(),
        subject: event.subject.clone(),
        time: event.time,
        traceparent: event.traceparent.clone(),
        correlation: event.correlation.clone(),
        causation: event.causation.clone(),
        data,
    }
}
