//! The brokers: whether they can be reached now, and whether they could from an isolated host.

use std::net::SocketAddr;
use std::time::Duration;

use portcullis_agent_core::record::Broker;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::posture::Agent;
use super::{Config, Finding};
use crate::brokers;
use crate::routes::{Routes, Tunnel};

const CHECK: &str = "broker";
const PATIENCE: Duration = Duration::from_secs(2);
/// What a NATS server says first.
const GREETING: &[u8] = b"INFO ";

/// A broker's address, and the tunnel on the way there.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Way {
    name: String,
    address: SocketAddr,
    tunnel: Result<Option<Tunnel>, String>,
}

/// What is found, and whether a broker answers; None where that is not known.
pub(super) async fn look(config: &Config, agent: &Agent) -> (Vec<Finding>, Option<bool>) {
    if config.servers.is_empty() {
        let finding = Finding::warn(
            CHECK,
            "none is named, so none was looked at",
            "give --nats, or the agent's environment: set -a; . /etc/portcullis/agent.env; portcullis-agent doctor",
        );
        return (vec![finding], agent.connected());
    }
    let brokers = brokers::resolve(&config.servers, &agent.remembered, false, &[]).await;
    let ways = ways(&brokers, agent.uid);
    let reached = match agent.connected() {
        Some(connected) => connected,
        None => reached(&ways).await,
    };
    let mut findings: Vec<_> = brokers.iter().filter(|broker| broker.addresses.is_empty()).map(unresolved).collect();
    findings.extend(judge(&ways));
    findings.push(match reached {
        true => Finding::ok(CHECK, "answers"),
        false => Finding::warn(
            CHECK,
            format!("does not answer at {}", ways.iter().map(|way| way.address.to_string()).collect::<Vec<_>>().join(", ")),
            "check address, route and firewall between here and there; an isolated host lets the agent alone speak to it",
        ),
    });
    (findings, Some(reached))
}

fn ways(brokers: &[Broker], uid: u32) -> Vec<Way> {
    let of = |broker: &Broker, address: SocketAddr| Way {
        name: broker.name.clone(),
        address,
        tunnel: Routes::open().and_then(|mut routes| routes.tunnel(address.ip(), uid)).map_err(|error| error.to_string()),
    };
    brokers.iter().flat_map(|broker| broker.addresses.iter().map(move |address| of(broker, *address))).collect()
}

async fn reached(ways: &[Way]) -> bool {
    for way in ways {
        let greeted = async {
            let mut greeting = [0; GREETING.len()];
            TcpStream::connect(way.address).await?.read_exact(&mut greeting).await?;
            std::io::Result::Ok(greeting == *GREETING)
        };
        if matches!(timeout(PATIENCE, greeted).await, Ok(Ok(true))) {
            return true;
        }
    }
    false
}

fn unresolved(broker: &Broker) -> Finding {
    Finding::warn(
        CHECK,
        format!("{} has no address", broker.name),
        "check the name and the resolvers, or name the broker by its address",
    )
}

/// One way that is no tunnel is enough.
fn judge(ways: &[Way]) -> Option<Finding> {
    if let Some((way, error)) = ways.iter().find_map(|way| Some((way, way.tunnel.as_ref().err()?))) {
        return Some(Finding::unseen(CHECK, format!("the route to {}: {error}", way.address)));
    }
    let tunnels: Vec<_> = ways
        .iter()
        .filter_map(|way| Some(format!("{} ({}) by {}", way.name, way.address, way.tunnel.as_ref().ok()?.as_ref()?)))
        .collect();
    let remedy = "name a broker that is reached without a tunnel: what carries the tunnel is not let out of an isolated host";
    match tunnels.as_slice() {
        [] => None,
        tunnels if tunnels.len() == ways.len() => Some(Finding::fail(
            CHECK,
            format!("reached through a tunnel only, and lost when this host is isolated: {}", tunnels.join(", ")),
            remedy,
        )),
        tunnels => {
            Some(Finding::warn(CHECK, format!("reached through a tunnel: {}; others are not", tunnels.join(", ")), remedy))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Grade;
    use super::*;

    #[test]
    fn a_broker_behind_a_tunnel_is_a_failure_where_there_is_no_other_way() {
        let way = |address: &str, tunnel: Option<&str>| Way {
            name: "b:4222".into(),
            address: address.parse().unwrap(),
            tunnel: Ok(tunnel.map(|kind| Tunnel { device: "t0".into(), kind: kind.into() })),
        };
        let (plain, tunnelled) = (way("10.0.0.1:4222", None), way("[fd00::1]:4222", Some("wireguard")));
        assert_eq!(judge(&[]), None);
        assert_eq!(judge(std::slice::from_ref(&plain)), None);
        let fail = judge(std::slice::from_ref(&tunnelled)).unwrap();
        assert!(fail.grade == Grade::Fail && fail.says.contains("b:4222 ([fd00::1]:4222) by t0 (wireguard)"), "{fail:?}");
        assert_eq!(judge(&[plain, tunnelled]).unwrap().grade, Grade::Warn);
        assert_eq!(judge(&[Way { tunnel: Err("x".into()), ..way("10.0.0.1:1", None) }]).unwrap().grade, Grade::Warn);
    }
}
