//! What a ruleset needs to know while a host is isolated: one value that crosses rooms and is kept in the posture file.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;

use ipnet::IpNet;
use portcullis_schemas::exclusion::{Direction, IcmpType, PortRange, Protocol};
use serde::{Deserialize, Serialize};

/// An isolation, complete in itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gate {
    /// The NATS servers, resolved before the gate drops; TCP.
    pub control: Vec<SocketAddr>,
    /// The only user who may use `control`.
    pub agent_uid: u32,
    /// Name servers that the agent itself may ask, and nobody else by this; UDP.
    pub resolvers: Vec<IpAddr>,
    /// The order's exclusions, resolved.
    pub passes: Vec<Pass>,
    /// Excluded connections that stood before the gate dropped.
    pub standing: Vec<Connection>,
    /// The layer on the devices; None where the kernel has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netdev: Option<Netdev>,
    /// None where the kernel cannot carry it from one layer to the other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<Proof>,
}

/// A number that nobody else knows, on each packet that the inet table has let out: the devices let out no other. Its `Debug` does not show it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Proof(NonZeroU32);

impl Proof {
    /// Of a random number.
    pub fn new(random: u32) -> Self {
        Self(NonZeroU32::new(random).unwrap_or(NonZeroU32::MAX))
    }

    pub(crate) fn number(self) -> u32 {
        self.0.get()
    }
}

impl fmt::Debug for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Proof")
    }
}

/// What the layer on the devices covers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Netdev {
    /// The kernel has the egress hook (5.16 and later); without it frames that bypass the host's stack get out.
    pub egress: bool,
    /// One chain for each direction stands on every device, also on those to come; without it each device has chains of its own.
    #[serde(default)]
    pub every_device: bool,
    /// All but loopback.
    pub devices: Vec<Device>,
}

/// A network device.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Device {
    pub index: u32,
    pub name: String,
    /// Its Ethernet address; None for a device without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<[u8; 6]>,
}

/// An exclusion with concrete addresses. All of its conditions hold together.
///
/// ICMP passes as far as conntrack knows who opened it, which is echo and the other request and reply pairs. Only protocols with ports have
/// conditions on ports, and only ICMP on types: who makes a pass sees to that.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pass {
    pub name: String,
    pub direction: Direction,
    pub protocol: Protocol,
    pub remotes: Vec<IpNet>,
    /// Empty means all.
    pub remote_ports: Vec<PortRange>,
    /// Empty means all.
    pub local_ports: Vec<PortRange>,
    /// Empty means all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub icmp_types: Vec<IcmpType>,
    /// Whose sockets on this host it is for.
    #[serde(default, skip_serializing_if = "Local::is_anybody")]
    pub local: Local,
}

/// The local side of a pass; both conditions hold together, none means anybody.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Local {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<ControlGroup>,
}

/// A control group of the second hierarchy, as it stands now: made again, a group of the same name is another one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ControlGroup {
    /// Relative to the root of the hierarchy, without a slash at either end.
    pub path: String,
    /// The inode number of its directory, which is the kernel's number for it (kernfs).
    pub id: u64,
    /// The numbers of the groups below it, sorted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub below: Vec<u64>,
}

impl Local {
    pub fn is_anybody(&self) -> bool {
        *self == Self::default()
    }

    /// Whether a socket of that user in that control group is meant. A group that is not known is not this one.
    pub fn covers(&self, uid: u32, group: Option<u64>) -> bool {
        let within = |wanted: &ControlGroup| group.is_some_and(|id| id == wanted.id || wanted.below.binary_search(&id).is_ok());
        self.uid.is_none_or(|wanted| wanted == uid) && self.group.as_ref().is_none_or(within)
    }
}

impl ControlGroup {
    /// How far below the root it is.
    fn depth(&self) -> usize {
        self.path.split('/').filter(|part| !part.is_empty()).count()
    }
}

/// As rules name it: number and depth.
impl fmt::Display for ControlGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.id, self.depth())
    }
}

/// One connection, seen from the host. IPv4 addresses stand as such, also where a program used an IPv6 socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Connection {
    pub protocol: Transport,
    pub local: SocketAddr,
    pub remote: SocketAddr,
}

/// The transports that have sockets with ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    Tcp,
    Udp,
}

impl Connection {
    pub fn new(protocol: Transport, local: SocketAddr, remote: SocketAddr) -> Self {
        Self { protocol, local: plain(local), remote: plain(remote) }
    }
}

impl Pass {
    /// Whether this lets through a connection of that direction between `remote` and the host's `local_port`.
    pub fn covers(&self, direction: Direction, protocol: Protocol, remote: SocketAddr, local_port: u16) -> bool {
        let within = |ports: &[PortRange], port| ports.is_empty() || ports.iter().any(|range| range.contains(port));
        self.direction == direction
            && self.is_for(protocol, remote.ip())
            && self.remotes.iter().any(|net| net.contains(&remote.ip()))
            && (!protocol.has_ports() || within(&self.remote_ports, remote.port()) && within(&self.local_ports, local_port))
    }

    fn is_for(&self, protocol: Protocol, remote: IpAddr) -> bool {
        let icmp = if remote.is_ipv4() { Protocol::Number(1) } else { Protocol::Number(58) };
        let same = |one: Protocol| if one == Protocol::Icmp { icmp } else { one };
        self.protocol == Protocol::Any || same(self.protocol) == same(protocol)
    }
}

impl Gate {
    /// What frames have to carry on the way out, where devices ask on the way out.
    pub(crate) fn proof_on_devices(&self) -> Option<Proof> {
        self.proof.filter(|_| self.netdev.as_ref().is_some_and(|netdev| netdev.egress))
    }

    /// Whether a TCP connection to `remote` by `uid` is the control channel.
    pub fn controls(&self, remote: SocketAddr, uid: u32) -> bool {
        uid == self.agent_uid && self.is_control(remote)
    }

    pub(crate) fn is_control(&self, remote: SocketAddr) -> bool {
        self.control.iter().any(|server| plain(*server) == remote)
    }

    pub(crate) fn covering(
        &self,
        direction: Direction,
        protocol: Protocol,
        remote: SocketAddr,
        local_port: u16,
    ) -> impl Iterator<Item = &Pass> {
        self.passes.iter().filter(move |pass| pass.covers(direction, protocol, remote, local_port))
    }

    pub(crate) fn covers(&self, direction: Direction, protocol: Protocol, remote: SocketAddr, local_port: u16) -> bool {
        self.covering(direction, protocol, remote, local_port).next().is_some()
    }
}

impl From<Transport> for Protocol {
    fn from(transport: Transport) -> Self {
        match transport {
            Transport::Tcp => Protocol::Tcp,
            Transport::Udp => Protocol::Udp,
        }
    }
}

/// The address as packets carry it: no mapped IPv4, no scope, no flow label.
pub fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
