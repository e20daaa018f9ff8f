//! The posture record: what this host has taken and enforces, with a reader that fails safe.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use portcullis_schemas::events::{LocalActor, Order, Posture, StateCause};
use portcullis_schemas::exclusion::Direction;
use portcullis_schemas::exclusion::measure::Opens;
use portcullis_schemas::{HostId, Timestamp, ids};
use serde::{Deserialize, Serialize};

use crate::deadline::{self, Mark, Now};
use crate::exclusions::{self, HostFacts, Listening, Problem};
use crate::gate::{Connection, ControlGroup, Gate, Proof};

pub const VERSION: u32 = 1;
/// A downgrade by one version keeps the posture.
const READABLE: u32 = VERSION + 1;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    pub version: u32,
    /// Counts the writes, so that the later of two copies is known where the generation is the same.
    pub serial: u64,
    pub host: HostId,
    pub generation: u64,
    pub posture: Posture,
    /// Set once the host has opened itself: orders up to this generation are answered, never enforced again.
    pub opened: Option<Opened>,
    /// Absent only where the host opened itself after its record was lost.
    pub order: Option<Order>,
    #[serde(default)]
    pub trace: Trace,
    /// Absent while open.
    pub frozen: Option<FrozenFacts>,
    pub mark: Mark,
}

/// An opening by the host itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Opened {
    pub generation: u64,
    pub at: Timestamp,
    pub cause: StateCause,
    pub by: Option<LocalActor>,
    /// The broker has stored the state event of it.
    pub told: bool,
}

/// What the order's envelope hands on to the state events.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trace {
    /// Id of the order's event.
    pub id: Option<String>,
    pub traceparent: Option<String>,
    pub correlation: Option<String>,
}

/// What the host knew as the gate dropped. Later changes of the host change nothing but where names and units are found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrozenFacts {
    pub brokers: Vec<Broker>,
    pub agent_uid: u32,
    pub resolvers: Vec<IpAddr>,
    /// The devices of those that are link-local.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub on_links: Vec<NameServer>,
    pub dhcp_servers: Vec<IpAddr>,
    pub listening_tcp: BTreeSet<u16>,
    pub listening_udp: BTreeSet<u16>,
    pub standing: Vec<Connection>,
    /// Kept, so that rules that stand are those that a restarted agent expects. Absent in a record of a version that had none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<Proof>,
    /// The version of the agent that has read its rules for this back whole. Absent where they may not be in force.
    #[serde(default)]
    pub whole_by: Option<String>,
    /// The last good answer for each name of an exclusion.
    #[serde(default)]
    pub names: BTreeMap<String, Vec<IpAddr>>,
    #[serde(default)]
    pub users: BTreeMap<String, u32>,
    /// What was attached to network devices. What comes while the host is isolated is never added; None: nothing counts as known.
    #[serde(default)]
    pub programs: Option<Programs>,
    /// As they stand now. Not kept: after a restart of the unit or the host the number may be another group's.
    #[serde(skip)]
    pub groups: BTreeMap<String, ControlGroup>,
}

/// A name server as resolv.conf names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NameServer {
    pub address: IpAddr,
    /// By name or number; only a link-local address has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
}

/// Programs on network devices by the ids that their contents give them in one boot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Programs {
    pub boot_id: String,
    pub ids: BTreeSet<String>,
}

/// A NATS server as configured, `host:port`, and where that was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Broker {
    pub name: String,
    pub addresses: Vec<SocketAddr>,
}

impl Record {
    /// The gate that this record wants now, and the exclusions that could not be resolved.
    pub fn gate(&self, now: &Now) -> (Gate, Vec<Problem>) {
        match (&self.frozen, &self.order) {
            (Some(frozen), Some(order)) => frozen.gate(order, self.mark.elapsed(now)),
            (Some(frozen), None) => (frozen.bare(), Vec::new()),
            (None, _) => (Gate::default(), Vec::new()),
        }
    }

    /// What the exclusions of the order in force open.
    pub fn opens(&self, now: &Now) -> Opens {
        let of = |order: &Order| exclusions::opens(&order.exclusions, deadline::order_time(order, self.mark.elapsed(now)));
        self.order.as_ref().map(of).unwrap_or_default()
    }

    /// The last word on the wire, where this record is the standing one of `me`. Another host's count means nothing here.
    pub fn generation_of(&self, me: &HostId) -> u64 {
        if self.host == *me { self.generation } else { 0 }
    }
}

impl FrozenFacts {
    pub fn facts(&self) -> HostFacts {
        HostFacts {
            resolvers: self.resolvers.clone(),
            dhcp_servers: self.dhcp_servers.clone(),
            listening: Listening { tcp: self.listening_tcp.clone(), udp: self.listening_udp.clone() },
            names: self.names.clone(),
            users: self.users.clone(),
            groups: self.groups.clone(),
        }
    }

    /// Whom the agent asks for names.
    pub fn name_servers(&self) -> Vec<NameServer> {
        let mut servers: Vec<NameServer> = Vec::new();
        for address in self.bare().resolvers {
            let mut named: Vec<_> = self.on_links.iter().filter(|server| server.address == address).cloned().collect();
            if named.is_empty() {
                named.push(NameServer { address, device: None });
            }
            named.retain(|server| !servers.contains(server));
            servers.append(&mut named);
        }
        servers
    }

    /// The control channel only.
    pub fn bare(&self) -> Gate {
        let control: BTreeSet<SocketAddr> = self.brokers.iter().flat_map(|broker| broker.addresses.iter().copied()).collect();
        let outside = |resolver: &IpAddr| !resolver.is_loopback() && !resolver.is_unspecified();
        let resolvers = self.resolvers.iter().map(IpAddr::to_canonical).filter(outside).collect();
        Gate {
            control: control.into_iter().collect(),
            agent_uid: self.agent_uid,
            resolvers,
            proof: self.proof,
            ..Gate::default()
        }
    }

    /// The gate of an order that has stood for `elapsed`. What stood before stands as long as an exclusion covers it.
    pub fn gate(&self, order: &Order, elapsed: Duration) -> (Gate, Vec<Problem>) {
        let (passes, problems) = exclusions::resolve(&order.exclusions, &self.facts(), deadline::order_time(order, elapsed));
        let mut gate = Gate { passes, ..self.bare() };
        let covered = |connection: &Connection| {
            [Direction::In, Direction::Out]
                .into_iter()
                .any(|direction| gate.covers(direction, connection.protocol.into(), connection.remote, connection.local.port()))
        };
        gate.standing = self.standing.iter().copied().filter(covered).collect();
        (gate, problems)
    }
}

/// What stands on this host.
#[derive(Clone, Debug, PartialEq)]
pub enum StoredRecord {
    /// No order was ever taken: open.
    Never,
    /// There was a record and it cannot be read: isolated, with the control channel only.
    Lost,
    Known(Box<Record>),
}

impl StoredRecord {
    pub fn posture(&self) -> Posture {
        match self {
            StoredRecord::Never => Posture::Open,
            StoredRecord::Lost => Posture::Isolated,
            StoredRecord::Known(record) => record.posture,
        }
    }

    pub fn generation(&self, me: &HostId) -> u64 {
        self.record().map_or(0, |record| record.generation_of(me))
    }

    pub fn record(&self) -> Option<&Record> {
        match self {
            StoredRecord::Known(record) => Some(record),
            StoredRecord::Never | StoredRecord::Lost => None,
        }
    }

    pub(crate) fn record_mut(&mut self) -> Option<&mut Record> {
        match self {
            StoredRecord::Known(record) => Some(record),
            StoredRecord::Never | StoredRecord::Lost => None,
        }
    }
}

/// Something about the copies that people should know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("posture copy {copy} is unreadable: {reason}; the other copy is used")]
    OneCopy { copy: char, reason: String },
    #[error("both posture copies are unreadable (a: {a}; b: {b}); the host isolates itself until it gets an order")]
    Lost { a: String, b: String },
    #[error("the posture file is of host {found}, this is {me}; its posture is kept until an order for {me} comes")]
    Foreign { found: HostId, me: HostId },
}

/// One copy as found: None where there is no such file, an error where it could not be read.
pub type Copy = Result<Option<Vec<u8>>, String>;

/// What two copies say together: absent is open, present but unreadable is isolated.
pub fn read(a: &Copy, b: &Copy, me: &HostId) -> (StoredRecord, Vec<Fault>) {
    let (standing, mut faults) = match (decode_copy(a), decode_copy(b)) {
        (Ok(None), Ok(None)) => (StoredRecord::Never, Vec::new()),
        (Ok(Some(a)), Ok(Some(b))) => (known(later(a, b, me)), Vec::new()),
        (Ok(Some(one)), Ok(None)) | (Ok(None), Ok(Some(one))) => (known(one), Vec::new()),
        (Ok(Some(a)), Err(reason)) => (known(a), vec![Fault::OneCopy { copy: 'b', reason }]),
        (Err(reason), Ok(Some(b))) => (known(b), vec![Fault::OneCopy { copy: 'a', reason }]),
        (a, b) => {
            let why = |copy: Result<Option<Record>, String>| copy.err().unwrap_or_else(|| "absent".to_owned());
            (StoredRecord::Lost, vec![Fault::Lost { a: why(a), b: why(b) }])
        }
    };
    if let Some(record) = standing.record().filter(|record| record.host != *me) {
        faults.push(Fault::Foreign { found: record.host.clone(), me: me.clone() });
    }
    (standing, faults)
}

/// Whether a copy that can be read says that the host is isolated, be it the older one.
pub fn says_isolated(a: &Copy, b: &Copy) -> bool {
    [a, b]
        .into_iter()
        .any(|copy| decode_copy(copy).is_ok_and(|record| record.is_some_and(|record| record.posture == Posture::Isolated)))
}

fn known(record: Record) -> StoredRecord {
    StoredRecord::Known(Box::new(record))
}

fn later(a: Record, b: Record, me: &HostId) -> Record {
    let rank = |record: &Record| (record.host == *me, record.generation, record.serial);
    if rank(&b) > rank(&a) { b } else { a }
}

fn decode_copy(copy: &Copy) -> Result<Option<Record>, String> {
    match copy {
        Ok(None) => Ok(None),
        Ok(Some(bytes)) => decode(bytes).map(Some),
        Err(reason) => Err(reason.clone()),
    }
}

/// A line with the checksum of the body, then the body: `sha256sum` can check it by hand.
pub fn encode(record: &Record) -> Result<Vec<u8>, serde_json::Error> {
    let body = serde_json::to_vec(record)?;
    let mut file = format!("sha256 {}\n", ids::sha256(&body)).into_bytes();
    file.extend_from_slice(&body);
    Ok(file)
}

/// Reads what [`encode`] wrote, or says why it cannot be.
pub fn decode(file: &[u8]) -> Result<Record, String> {
    let line = file.iter().position(|byte| *byte == b'\n').ok_or("it has no checksum line")?;
    let (head, body) = (&file[..line], &file[line + 1..]);
    if head != format!("sha256 {}", ids::sha256(body)).as_bytes() {
        return Err("its checksum is wrong".to_owned());
    }
    let record: Record = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    if record.version > READABLE {
        return Err(format!("it has version {}; this agent reads up to {READABLE}", record.version));
    }
    Ok(record)
}

#[cfg(test)]
mod tests;
