//! From the outcomes of a batch to the messages that answer it: one decision alone, or pages.

use std::collections::BTreeMap;

use portcullis_schemas::events::{Decision, InputKind, Notice, Page, Plain, Reason, Seen, Verdict};
use portcullis_schemas::rejected::Malformed;
use portcullis_schemas::{HostId, Prefix, Stream};

use super::event::Outgoing;
use super::write::{self, Trace};
use crate::answered::Ranges;

/// Decisions of about this many bytes go into one page: well below the smallest `max_payload` that is sensible (256 KiB).
const PAGE: usize = 96 * 1024;

/// One input's answer, on its way into a page.
#[derive(Debug)]
pub(super) struct Answer {
    pub stream: Stream,
    pub sequence: Option<u64>,
    pub decision: Decision,
    /// It changed nothing and asks for nobody.
    pub quiet: bool,
    pub trace: Trace,
}

impl Answer {
    pub(super) fn new(stream: Stream, sequence: u64, mut decision: Decision, notices: &[Notice], trace: Trace) -> Self {
        let sequence = (!matches!(decision.input.kind, InputKind::Stream | InputKind::Time)).then_some(sequence);
        decision.sequence = sequence;
        Self { stream, sequence, quiet: notices.is_empty() && decision.generation.is_none(), decision, trace }
    }

    /// What stands for it in a page where it is one of many that a rule lets pass.
    fn plain(&self) -> Option<((&HostId, &str, Verdict), u64)> {
        let Decision { host, verdict, reason, rule, facts, .. } = &self.decision;
        let says_more = self.decision.asked || !self.decision.effects.is_empty() || !self.decision.further.is_empty();
        let passes = matches!(verdict, Verdict::Observe | Verdict::Ignore) && *reason == Reason::Rule;
        let is_plain = self.quiet && passes && facts.input_faults.is_empty() && !self.decision.waited && !says_more;
        let key = (host.as_ref()?, rule.as_deref()?, *verdict);
        self.sequence.filter(|_| is_plain).map(|sequence| (key, sequence))
    }
}

/// The messages that answer these inputs, in the order of their streams. `shortened` leaves out what senders wrote of themselves.
pub(super) fn messages(
    prefix: &Prefix,
    answers: &[Answer],
    seen: &Seen,
    policy: Option<&str>,
    shortened: bool,
) -> Result<Vec<Outgoing>, Malformed> {
    let whole = |answer: &Answer| if shortened { write::shortened(answer.decision.clone()) } else { answer.decision.clone() };
    if let [answer] = answers {
        let mut decision = whole(answer);
        decision.facts.seen = Some(seen.clone());
        let at = decision.facts.now.unwrap_or_default();
        return Ok(vec![write::decision(prefix, decision, at, &answer.trace)?]);
    }
    let mut written = Vec::new();
    let mut rest = answers;
    while let Some(first) = rest.first() {
        let (run, others) = rest.split_at(rest.iter().take_while(|answer| answer.stream == first.stream).count());
        rest = others;
        let at = run.iter().filter_map(|answer| answer.decision.facts.now).max().unwrap_or_default();
        for (part, page) in pages(prefix.stream(first.stream), run, seen, policy, whole).into_iter().enumerate() {
            written.push(write::page(prefix, page, at, part)?);
        }
    }
    Ok(written)
}

fn pages(stream: String, run: &[Answer], seen: &Seen, policy: Option<&str>, whole: impl Fn(&Answer) -> Decision) -> Vec<Page> {
    let (first, last) = span(run.iter().filter_map(|answer| answer.sequence));
    let mut plain: BTreeMap<(&HostId, &str, Verdict), (u64, Ranges)> = BTreeMap::new();
    let mut decisions = Vec::new();
    for answer in run {
        match answer.plain() {
            Some((key, sequence)) => {
                let (count, ranges) = plain.entry(key).or_default();
                *count += 1;
                ranges.insert(sequence, sequence);
            }
            None => decisions.push(whole(answer)),
        }
    }
    let group = |((host, rule, verdict), (count, ranges)): ((&HostId, &str, Verdict), (u64, Ranges))| Plain {
        count,
        host: host.clone(),
        rule: rule.to_owned(),
        verdict,
        sequences: ranges.into_vec(),
    };
    let empty = Page {
        stream,
        first,
        last,
        policy: policy.map(str::to_owned),
        seen: seen.clone(),
        plain: plain.into_iter().map(group).collect(),
        decisions: Vec::new(),
    };
    let mut pages = vec![empty];
    let mut bytes = size(&pages[0].plain);
    for decision in decisions {
        let more = size(&decision);
        if bytes > 0 && bytes + more > PAGE {
            let next = Page { plain: Vec::new(), ..pages[0].clone() };
            pages.push(Page { decisions: Vec::new(), ..next });
            bytes = 0;
        }
        bytes += more;
        if let Some(page) = pages.last_mut() {
            page.decisions.push(decision);
        }
    }
    pages
}

/// The lowest and the highest; zeros where there is none.
fn span(sequences: impl Iterator<Item = u64> + Clone) -> (u64, u64) {
    (sequences.clone().min().unwrap_or(0), sequences.max().unwrap_or(0))
}

fn size(value: &impl serde::Serialize) -> usize {
    serde_json::to_vec(value).map_or(0, |bytes| bytes.len())
}
