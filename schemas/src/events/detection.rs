//! Detection: somebody's claim that an indicator of compromise was seen on a host.

mod raw;
mod reading;
#[cfg(test)]
mod tests;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Payload;
use crate::rejected::Malformed;
use crate::time::{self, Timestamp};

pub use raw::Raw;
pub use reading::{Doubtful, Reading, Sighting};

/// `io.portcullis.detection.v1`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Detection {
    /// Where it was seen.
    pub host: HostClaim,
    /// What was seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub indicator: Option<Indicator>,
    /// How bad the sender thinks it is; senders without a word for it write `unknown`.
    pub severity: Severity,
    /// 0 to 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 100))]
    pub confidence: Option<u8>,
    /// The sender's rule.
    pub rule: RuleRef,
    /// MITRE ATT&CK technique ids, as `T1486`.
    #[serde(default, deserialize_with = "crate::json::or_null")]
    #[schemars(with = "Option<Vec<String>>")]
    pub techniques: Vec<String>,
    /// The product that saw it, as `elastic`.
    pub product: String,
    /// When it was seen, by the sender's clock.
    pub observed_at: Timestamp,
    /// The sender's own id of the incident; else the id of the first cause names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incident: Option<String>,
    /// Back to the alert.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The account that it was seen with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The program that it was seen with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<String>,
    /// Id of an earlier detection of the same sender, now known to be false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retracts: Option<String>,
    /// The sender's own record, carried along and never read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub raw: Option<Raw>,
}

/// What a sender knows of the host. One member suffices; an id is tried first, then the name, then the addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("anyOf" = [
    { "required": ["id"], "properties": { "id": { "type": "string" } } },
    { "required": ["hostname"], "properties": { "hostname": { "type": "string" } } },
    { "required": ["ips"], "properties": { "ips": { "type": "array", "minItems": 1 } } },
]))]
pub struct HostClaim {
    /// The host id under which its agent is enrolled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Its name, with or without the domain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// Its addresses, IPv4 and IPv6, without a prefix length.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "crate::json::or_null")]
    #[schemars(with = "Option<Vec<String>>")]
    pub ips: Vec<String>,
}

/// The indicator of compromise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Indicator {
    /// As `ip`, `domain`, `sha256`.
    #[serde(rename = "type")]
    pub kind: String,
    /// As the sender wrote it.
    pub value: String,
}

/// The rule of the sender's product that fired.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RuleRef {
    /// Its id in the sender's product.
    pub id: String,
    /// Its title, for people and for the policy's `rule.name`.
    pub name: String,
}

/// Severity in rising order. `unknown` never isolates by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The sender has no word for it; never isolates by itself.
    Unknown,
    /// Nothing to be done about it.
    Informational,
    /// Above `informational`.
    Low,
    /// Above `low`.
    Medium,
    /// Above `medium`.
    High,
    /// Highest.
    Critical,
}

impl Severity {
    /// All of them, in rising order.
    pub const ALL: [Severity; 6] =
        [Severity::Unknown, Severity::Informational, Severity::Low, Severity::Medium, Severity::High, Severity::Critical];

    /// The text that stands on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Severity::Unknown => "unknown",
            Severity::Informational => "informational",
            Severity::Low => "low",
            Severity::Medium => "medium",
            Severity::High => "high",
            Severity::Critical => "critical",
        }
    }
}

impl Payload for Detection {
    const TYPE: &'static str = "io.portcullis.detection.v1";
    const NAME: &'static str = "detection";
    const LENIENT: bool = true;

    fn read(data: &[u8]) -> Result<Self, Malformed> {
        Reading::of(data)?.sound()
    }

    fn check(&self) -> Result<(), String> {
        let host = &self.host;
        if host.id.is_none() && host.hostname.is_none() && host.ips.is_empty() {
            return Err("host names no host: give id, hostname or ips".into());
        }
        time::check("observed_at", self.observed_at)?;
        match self.confidence {
            Some(confidence) if confidence > 100 => Err(format!("confidence is {confidence}; it goes from 0 to 100")),
            _ => Ok(()),
        }
    }
}
