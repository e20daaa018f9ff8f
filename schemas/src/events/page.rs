//! Page: the answers to many inputs of one stream in one message.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Decision, Payload, Seen, Verdict};
use crate::host_id::HostId;

/// `io.portcullis.decisions.v1`
///
/// Pages that were decided together are stored together, in one atomic batch; they share `seen`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Page {
    /// The stream of the inputs that are answered here, by its full name.
    pub stream: String,
    /// The lowest sequence in `stream` that is answered here.
    pub first: u64,
    /// The highest one. What lies between and is not listed is not answered here.
    pub last: u64,
    /// SHA-256 of the policy's text; absent where no policy was active.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// What the decisions saw.
    pub seen: Seen,
    /// Inputs that change nothing, by what was decided about them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub plain: Vec<Plain>,
    /// Everything else, whole, in the order of the inputs' sequences.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub decisions: Vec<Decision>,
}

/// Inputs about one host that one rule of the policy let pass. Their facts are those of the positions in `seen`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Plain {
    /// How many inputs.
    pub count: u64,
    /// The host that they are about.
    pub host: HostId,
    /// The policy's rule that matched.
    pub rule: String,
    /// What is done about each: `observe` or `ignore`.
    pub verdict: Verdict,
    /// Their sequences, as ranges from first to last, both included, in rising order.
    pub sequences: Vec<(u64, u64)>,
}

impl Plain {
    /// Each of the sequences, rising.
    pub fn each(&self) -> impl DoubleEndedIterator<Item = u64> + '_ {
        self.sequences.iter().flat_map(|(first, last)| *first..=*last)
    }

    pub fn contains(&self, sequence: u64) -> bool {
        self.sequences.iter().any(|(first, last)| (*first..=*last).contains(&sequence))
    }
}

impl Page {
    /// The sequences that are answered here, as ranges, in no order.
    pub fn answered(&self) -> impl Iterator<Item = (u64, u64)> {
        let plain = self.plain.iter().flat_map(|plain| plain.sequences.iter().copied());
        plain.chain(self.decisions.iter().filter_map(|decision| decision.sequence.map(|one| (one, one))))
    }

    /// The decisions as they read alone, with what stands once for the whole page put back into each.
    pub fn into_decisions(self) -> impl Iterator<Item = Decision> {
        let Self { seen, decisions, .. } = self;
        decisions.into_iter().map(move |mut decision| {
            decision.facts.seen = Some(seen.clone());
            decision
        })
    }
}

impl Payload for Page {
    const TYPE: &'static str = "io.portcullis.decisions.v1";
    const NAME: &'static str = "decisions";

    fn check(&self) -> Result<(), String> {
        match self.answered().find(|(first, last)| first > last || *first < self.first || *last > self.last) {
            Some((first, last)) => {
                Err(format!("sequences {first} to {last} are no range within {} to {}", self.first, self.last))
            }
            None => Ok(()),
        }
    }
}
