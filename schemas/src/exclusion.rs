//! Exclusions: connections that pass while a host is isolated.

pub mod measure;
mod names;
mod ports;
mod protocol;

use ipnet::IpNet;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::time::Timestamp;

pub use names::{DnsName, NameError, Unit, UserName};
pub use ports::{PortRange, PortRangeError};
pub use protocol::{IcmpType, Protocol, ProtocolError};

/// One connection, or a family of them, that passes while isolated; replies to it pass as well.
///
/// An unknown member is an error and not ignored: it could be a condition, and an exclusion without one of its conditions
/// opens more than was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Exclusion {
    /// The profile or the name in the policy that it came from; for people and reports.
    pub name: String,
    /// Who opens the connection, seen from the host.
    pub direction: Direction,
    /// The transport, or another protocol over IP.
    pub protocol: Protocol,
    /// Whom it may be with.
    pub remote: Remote,
    /// Ports of the other side; empty means all. Only for protocols that have ports.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "crate::json::or_null")]
    #[schemars(with = "Option<Vec<PortRange>>")]
    pub remote_ports: Vec<PortRange>,
    /// Ports of this host; empty means all. Only for protocols that have ports.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "crate::json::or_null")]
    #[schemars(with = "Option<Vec<PortRange>>")]
    pub local_ports: Vec<PortRange>,
    /// Which requests of ICMP; empty means all. Only for protocol `icmp`.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "crate::json::or_null")]
    #[schemars(with = "Option<Vec<IcmpType>>")]
    pub icmp_types: Vec<IcmpType>,
    /// The only local user whose sockets it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<UserName>,
    /// The only systemd unit, or control group, whose sockets it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<Unit>,
    /// Inert unless a socket of this host listens on one of `local_ports` outside loopback when the gate drops.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub if_listening: bool,
    /// End of a temporary exclusion.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
}

/// Who opens a connection, seen from the isolated host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// The host opens it.
    Out,
    /// The other side opens it.
    In,
}

/// The other side of an exclusion.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Remote {
    /// Networks in CIDR form, of both families.
    Cidrs(
        #[schemars(schema_with = "cidrs")]
        #[serde(deserialize_with = "crate::address::networks")]
        Vec<IpNet>,
    ),
    /// Hosts by their names, which the isolated host keeps resolved: the last good answer of each stands.
    Names(#[schemars(length(min = 1))] Vec<DnsName>),
    /// What the host itself knows when the gate drops, frozen from then on.
    Known(Known),
    /// Anybody.
    Any,
}

fn cidrs(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "array", "items": { "type": "string", "pattern": "^[0-9A-Fa-f:.]+/[0-9]{1,3}$" } })
}

/// Addresses that only the host knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Known {
    /// The resolvers that the host uses, loopback ones left out.
    Resolvers,
    /// The DHCP servers of its leases, and the broadcast and multicast addresses that a client renews by.
    DhcpServers,
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{Exclusion, Known, Remote};

    #[test]
    fn an_unknown_member_is_refused() {
        let plain = json!({ "name": "ssh", "direction": "in", "protocol": "tcp", "remote": "any" });
        read(&plain).expect("valid as it is");
        for (member, value) in [("group", json!("root")), ("remote_port", json!(["22"])), ("Until", json!(null))] {
            let mut more = plain.clone();
            more[member] = value;
            let error = read(&more).expect_err(member).to_string();
            assert!(error.contains(&format!("unknown field `{member}`")), "{error}");
        }
    }

    #[test]
    fn each_condition_is_written_out_or_means_all() {
        let bare = json!({ "name": "n", "direction": "out", "protocol": "udp", "remote": { "known": "resolvers" } });
        let exclusion = read(&bare).expect("valid");
        assert_eq!(exclusion.remote, Remote::Known(Known::Resolvers));
        assert!(exclusion.remote_ports.is_empty() && exclusion.local_ports.is_empty() && !exclusion.if_listening);
        assert_eq!(serde_json::to_value(&exclusion).expect("writes"), bare);
        for member in ["name", "direction", "protocol", "remote"] {
            let mut less = bare.clone();
            less.as_object_mut().expect("an object").remove(member);
            assert!(read(&less).is_err(), "taken without {member}");
        }
    }

    #[test]
    fn remotes_are_networks_or_known_by_name() {
        let with = |remote: Value| read(&json!({ "name": "n", "direction": "out", "protocol": "tcp", "remote": remote }));
        for good in [
            json!("any"),
            json!({ "cidrs": ["10.0.0.0/8", "2001:db8::/32", "0.0.0.0/0"] }),
            json!({ "known": "dhcp_servers" }),
            json!({ "names": ["siem.example.org", "_wazuh.example.org"] }),
        ] {
            with(good.clone()).unwrap_or_else(|error| panic!("{good}: {error}"));
        }
        let bad = [
            json!("all"),
            json!(null),
            json!({}),
            json!({ "cidrs": ["10.0.0.1"] }),
            json!({ "cidrs": ["10.0.0.0/33"] }),
            json!({ "cidrs": ["example.org"] }),
            json!({ "cidrs": [], "known": "resolvers" }),
            json!({ "known": "gateways" }),
            json!({ "names": ["../etc"] }),
            json!({ "names": "siem.example.org" }),
        ];
        for remote in bad {
            assert!(with(remote.clone()).is_err(), "{remote} was taken");
        }
    }

    #[test]
    fn an_ipv4_network_written_as_ipv6_is_the_ipv4_network() {
        let remote = json!({ "cidrs": ["::ffff:10.213.0.250/128", "::ffff:10.213.0.0/120", "2001:DB8::/32"] });
        let exclusion = read(&json!({ "name": "n", "direction": "out", "protocol": "tcp", "remote": remote })).expect("valid");
        let plain = json!({ "cidrs": ["10.213.0.250/32", "10.213.0.0/24", "2001:db8::/32"] });
        assert_eq!(serde_json::to_value(exclusion.remote).expect("writes"), plain);
    }

    fn read(value: &Value) -> Result<Exclusion, serde_json::Error> {
        serde_json::from_value(value.clone())
    }
}
