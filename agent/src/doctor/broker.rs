//! The brokers: whether they can be reached now, and whether they could from an isolated host.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::future::join_all;
use portcullis_agent_core::gate::Gate;
use portcullis_agent_core::record::Broker;
use portcullis_agent_core::relay::{Objection, Server, judge as judge_relay};
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::posture::Agent;
use super::{Config, Finding};
use crate::broker::{relay, servers};
use crate::host::routes::{Reach, Routes};

const CHECK: &str = "broker";
const PATIENCE: Duration = Duration::from_secs(2);
/// What a NATS server says first.
const GREETING: &[u8] = b"INFO ";
/// More is no greeting.
const LONGEST: u64 = 64 * 1024;

/// A broker's address, how it is reached, and what answers there.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    name: String,
    address: SocketAddr,
    way: Result<Reach, String>,
    /// Whether a NATS server answers; where that is on this host, why orders would not come by it.
    greeting: Option<Result<(), Objection>>,
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
    let brokers = servers::resolve(&config.servers, &agent.remembered, false, &[]).await;
    let addresses = brokers.iter().flat_map(|broker| broker.addresses.iter().map(|address| (&broker.name, *address)));
    let seen = join_all(addresses.map(|(name, address)| see(name, address, agent.uid))).await;
    let reached = agent.connected().unwrap_or_else(|| seen.iter().any(|seen| seen.greeting.is_some()));
    let mut findings: Vec<_> = brokers.iter().filter(|broker| broker.addresses.is_empty()).map(unresolved).collect();
    findings.extend(judge(&seen));
    findings.push(match reached {
        true => Finding::ok(CHECK, "answers"),
        false => Finding::warn(
            CHECK,
            format!("does not answer at {}", seen.iter().map(|seen| seen.address.to_string()).collect::<Vec<_>>().join(", ")),
            "check address, route and firewall between here and there; an isolated host lets the agent alone speak to it",
        ),
    });
    (findings, Some(reached))
}

async fn see(name: &str, address: SocketAddr, uid: u32) -> Seen {
    let way = Routes::open().and_then(|mut routes| routes.way(address.ip(), uid)).map_err(|error| error.to_string());
    let greeting = timeout(PATIENCE, greet(address)).await.ok().and_then(Result::ok);
    Seen { name: name.to_owned(), address, way, greeting }
}

/// The part of a server's greeting that is needed here.
#[derive(Deserialize)]
struct Info {
    server_name: String,
    #[serde(default)]
    jetstream: bool,
}

/// An error where no NATS server answers.
async fn greet(address: SocketAddr) -> io::Result<Result<(), Objection>> {
    let mut stream = TcpStream::connect(address).await?;
    let inode = u32::try_from(rustix::fs::fstat(&stream)?.st_ino).map_err(io::Error::other)?;
    let mut greeting = [0; GREETING.len()];
    stream.read_exact(&mut greeting).await?;
    if greeting != *GREETING {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut line = String::new();
    let rest = timeout(PATIENCE / 2, BufReader::new((&mut stream).take(LONGEST)).read_line(&mut line)).await;
    let info = rest.ok().and_then(|_| serde_json::from_str(&line).ok());
    // Only with the agent's credentials could it be asked more.
    let server = info.map(|Info { server_name, jetstream }| {
        let leader = Some(if jetstream { server_name.clone() } else { "a server with JetStream".to_owned() });
        Server { name: server_name, leader, replicas: Vec::new() }
    });
    let end = relay::end(&[inode].into())?;
    Ok(end.map_or(Ok(()), |end| judge_relay(&end, server.as_ref(), &Gate::default())))
}

fn unresolved(broker: &Broker) -> Finding {
    Finding::warn(
        CHECK,
        format!("{} has no address", broker.name),
        "check the name and the resolvers, or name the broker by its address",
    )
}

/// One way that an isolation does not cut is enough.
fn judge(all: &[Seen]) -> Vec<Finding> {
    if let Some((seen, error)) = all.iter().find_map(|seen| Some((seen, seen.way.as_ref().err()?))) {
        return vec![Finding::unseen(CHECK, format!("the route to {}: {error}", seen.address))];
    }
    let tunnels: Vec<_> = all
        .iter()
        .filter_map(|seen| match &seen.way {
            Ok(Reach::Tunnel(tunnel)) => Some(format!("{} ({}) by {tunnel}", seen.name, seen.address)),
            _ => None,
        })
        .collect();
    let relays: Vec<_> = all.iter().filter_map(|seen| seen.greeting.as_ref()?.as_ref().err()).map(ToString::to_string).collect();
    let is_lost = tunnels.len() + relays.len() >= all.len();
    let finding = |says: &str, ways: &[String], remedy| {
        let says = format!("{says}{}", ways.join(", "));
        match is_lost {
            true => Finding::fail(CHECK, format!("lost when this host is isolated: {says}"), remedy),
            false => Finding::warn(CHECK, format!("{says}; others are not"), remedy),
        }
    };
    let mut findings = Vec::new();
    if !tunnels.is_empty() {
        let remedy = "name a broker that is reached without a tunnel: what carries the tunnel is not let out of an isolated host";
        findings.push(finding("reached through a tunnel: ", &tunnels, remedy));
    }
    if !relays.is_empty() {
        let remedy = "name a broker that is reached without a relay on this host, or exclude the relay's connection in the policy (its user or unit)";
        findings.push(finding("", &relays, remedy));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::Grade;
    use super::*;
    use crate::host::routes::Tunnel;

    #[test]
    fn a_broker_that_an_isolation_would_cut_is_a_failure_where_there_is_no_other_way() {
        let seen = |address: &str, tunnel: Option<&str>| Seen {
            name: "b:4222".into(),
            address: address.parse().unwrap(),
            way: Ok(tunnel.map_or(Reach::Plain, |kind| Reach::Tunnel(Tunnel { device: "t0".into(), kind: kind.into() }))),
            greeting: Some(Ok(())),
        };
        let (plain, tunnelled) = (seen("10.0.0.1:4222", None), seen("[fd00::1]:4222", Some("wireguard")));
        let broker = "127.0.0.1:4222".parse().unwrap();
        let relay = Seen {
            way: Ok(Reach::Here),
            greeting: Some(Err(Objection::Elsewhere { broker, leader: "hub".into() })),
            ..seen("127.0.0.1:4222", None)
        };
        let itself = Seen { greeting: Some(Ok(())), ..relay.clone() };
        let grades = |all: &[&Seen]| {
            let all: Vec<Seen> = all.iter().map(|seen| (*seen).clone()).collect();
            judge(&all).iter().map(|finding| finding.grade).collect::<Vec<_>>()
        };
        assert_eq!(grades(&[]), []);
        assert_eq!(grades(&[&plain]), []);
        assert_eq!(grades(&[&itself]), []);
        assert_eq!(grades(&[&tunnelled]), [Grade::Fail]);
        assert_eq!(grades(&[&relay]), [Grade::Fail]);
        assert_eq!(grades(&[&relay, &tunnelled]), [Grade::Fail, Grade::Fail]);
        assert_eq!(grades(&[&plain, &tunnelled]), [Grade::Warn]);
        assert_eq!(grades(&[&plain, &relay]), [Grade::Warn]);
        assert_eq!(grades(&[&Seen { way: Err("x".into()), ..plain.clone() }]), [Grade::Warn]);
        let says = |seen: &Seen| judge(std::slice::from_ref(seen)).remove(0).says;
        assert!(says(&tunnelled).contains("b:4222 ([fd00::1]:4222) by t0 (wireguard)"), "{}", says(&tunnelled));
        assert!(says(&relay).contains("the log of orders is led by hub, elsewhere"), "{}", says(&relay));
    }
}
