//! Policy activated: from here on in DECISIONS this policy decides.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Payload;

/// `io.portcullis.policy-activated.v1`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PolicyActivated {
    /// SHA-256 of the policy's text, in hex, under which the text lies in the KV bucket; absent: no policy is active, and detections wait for a person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash: Option<String>,
    /// Whose doing it is: `file` (at a start or by SIGHUP), or an operator.
    pub activated_by: String,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The term in which it was activated.
    pub term: u64,
}

impl Payload for PolicyActivated {
    const TYPE: &'static str = "io.portcullis.policy-activated.v1";
    const NAME: &'static str = "policy-activated";
}
