//! Hello: an agent's word on itself, and the inventory made of it. Claims, not facts.

use std::borrow::Cow;
use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Level, Payload, Posture, check_generation};
use crate::exclusion::Exclusion;
use crate::host_id::HostId;
use crate::time::Timestamp;

/// Most bytes that names, addresses, labels and roles of a host may have together.
const MAX_TEXT: usize = 32 * 1024;

/// `io.portcullis.hello.v1`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Hello {
    /// The id under which the agent is enrolled; the same as in the subject.
    pub host: HostId,
    /// The host's name, as uname(2) gives it.
    pub hostname: String,
    /// Its addresses but for loopback ones, without a prefix length; at most 256.
    #[schemars(length(max = 256))]
    pub ips: Vec<String>,
    /// Those of `ips` that sit on devices which lead nowhere else: loopback, bridges of containers and virtual machines, dummies. Many hosts may
    /// have the same ones (docker0, virbr0, anycast), so they tell hosts apart only where a single host has them. At most 256.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub internal_ips: Vec<String>,
    /// The distribution, as PRETTY_NAME of os-release(5).
    pub os: String,
    /// The kernel's release, as `uname -r`.
    pub kernel: String,
    /// Version of the agent, as `0.1.0`.
    pub agent_version: String,
    /// Random per boot (/proc/sys/kernel/random/boot_id).
    pub boot_id: String,
    /// Random per process: two live ones with one host id are an alarm.
    pub instance: String,
    /// How much the host can hold.
    pub level: Level,
    /// What a host at this level cannot hold, as far as a higher level could; empty at `full`; at most 64.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub leaks: Vec<String>,
    /// Labels from the agent's configuration; at most 64.
    #[serde(default)]
    #[schemars(extend("maxProperties" = 64))]
    pub labels: BTreeMap<String, String>,
    /// What the host is to others, as `dns-server`; at most 64.
    #[serde(default)]
    #[schemars(length(max = 64))]
    pub roles: Vec<String>,
    /// The last order taken; 0 where there was none.
    #[schemars(range(max = super::MAX_GENERATION))]
    pub generation: u64,
    /// What is in force.
    pub posture: Posture,
    /// This agent says its last order in a state event where the log of orders has lost it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tells_last_order: bool,
}

/// `io.portcullis.inventory.v1`: the last hello, and what the orchestrator knows of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Inventory {
    /// The host's last word on itself.
    #[serde(flatten)]
    pub hello: Hello,
    /// Names and addresses with the time from which this host has held them.
    #[serde(default)]
    pub claims: Vec<Claim>,
    /// Set while the host has not been heard of: the time of its last word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub silent_since: Option<Timestamp>,
    /// Since when the host has reported each of its roles, by the broker's time.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub roles_since: BTreeMap<String, Timestamp>,
    /// What operators say of the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operator: Option<OperatorWord>,
}

impl Inventory {
    /// The labels that count: those of the host, with what operators say of them laid over.
    pub fn labels(&self) -> Cow<'_, BTreeMap<String, String>> {
        let Some(words) = self.operator.as_ref().filter(|operator| !operator.labels.is_empty()) else {
            return Cow::Borrowed(&self.hello.labels);
        };
        let mut labels = self.hello.labels.clone();
        for (name, value) in &words.labels {
            match value {
                Some(value) => drop(labels.insert(name.clone(), value.clone())),
                None => drop(labels.remove(name)),
            }
        }
        Cow::Owned(labels)
    }
}

/// What operators say of a host. It counts before what the host says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OperatorWord {
    /// Labels; null: the host has none of this name, whatever it says.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub labels: BTreeMap<String, Option<String>>,
    /// The host's own exclusions for manual isolation, in place of the policy's `manual_default`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exclusions: Option<Vec<Exclusion>>,
    /// The sequence in DECISIONS of the last decision that is in it.
    pub decision: u64,
}

/// One name or address of a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Claim {
    /// A host name in lower case, or an address.
    pub value: String,
    /// Broker's time of the first hello that named it.
    pub since: Timestamp,
    /// An address of `internal_ips`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub internal: bool,
    /// Set where the host no longer names it: the time of the hello that did not. It keeps its `since` where it comes back within a day.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_at: Option<Timestamp>,
}

impl Payload for Hello {
    const TYPE: &'static str = "io.portcullis.hello.v1";
    const NAME: &'static str = "hello";

    fn check(&self) -> Result<(), String> {
        check_generation(self.generation, 0)?;
        for (what, count, most) in [
            ("ips", self.ips.len(), 256),
            ("internal_ips", self.internal_ips.len(), 256),
            ("labels", self.labels.len(), 64),
            ("roles", self.roles.len(), 64),
            ("leaks", self.leaks.len(), 64),
        ] {
            if count > most {
                return Err(format!("{what} has {count} entries; at most {most} are taken"));
            }
        }
        // It is repeated in inventories and decisions.
        let labels = self.labels.iter().flat_map(|(name, value)| [name, value]);
        let texts = [&self.hostname, &self.os, &self.kernel, &self.agent_version, &self.boot_id, &self.instance];
        let bytes: usize = labels
            .chain(texts)
            .chain(&self.ips)
            .chain(&self.internal_ips)
            .chain(&self.roles)
            .chain(&self.leaks)
            .map(String::len)
            .sum();
        if bytes > MAX_TEXT {
            return Err(format!("its texts have {bytes} bytes; at most {MAX_TEXT} are taken"));
        }
        Ok(())
    }
}

impl Payload for Inventory {
    const TYPE: &'static str = "io.portcullis.inventory.v1";
    const NAME: &'static str = "inventory";

    fn check(&self) -> Result<(), String> {
        self.hello.check()
    }
}
