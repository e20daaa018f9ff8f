//! How the brokers are reached, and whether an isolation would leave a way: not through tunnels alone, and not by relays on this host.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use portcullis_agent_core::gate::Gate;
use portcullis_agent_core::machine::Event;
use portcullis_agent_core::relay::{self, Objection};
use portcullis_schemas::events::{Order, Posture};
use tokio::time::Instant;

use super::Agent;
use crate::broker::event::Reached;
use crate::broker::relay as look;
use crate::host::routes::{Reach, Routes};
use crate::host::{facts, groups, places};

/// What is known of the ways.
#[derive(Debug, Default)]
pub(super) struct Reachability {
    routes: Option<Routes>,
    /// Where the connection that stands ends on this host.
    here: Option<Reached>,
    /// A broker is configured at an address of this host.
    is_local: bool,
    /// Where the connection ends has been looked up since it was made.
    looked: bool,
    looking_since: Option<Instant>,
    /// Why only some orders would be taken: a relay that their exclusions have to carry.
    pub(super) condition: Option<String>,
    /// The last order was taken because the process at the end of the connection looked like the broker itself.
    pub(super) taken_for_itself: bool,
}

/// An order may come before it is looked up where the connection ends, and waits so long for that.
const LOOKUP: Duration = Duration::from_secs(2);

impl Reachability {
    /// Whether the connection is known to end on this host.
    pub(super) fn ends_here(&self) -> bool {
        self.here.is_some()
    }
}

impl Agent {
    pub(super) fn reached(&mut self, here: Option<Reached>) {
        (self.upkeep.reach.here, self.upkeep.reach.looked, self.upkeep.reach.looking_since) = (here, true, None);
        self.find_routes(None);
    }

    /// A connection was made or lost: where it ends is to be looked up.
    pub(super) fn look_up_again(&mut self, lost: bool) {
        let ways = &mut self.upkeep.reach;
        ways.looked &= !lost;
        ways.looking_since = None;
    }

    /// Until when orders wait, since it is not known yet whether a broker at an address of this host is the broker itself.
    pub(super) fn lookup_ends(&mut self) -> Option<Instant> {
        let ways = &mut self.upkeep.reach;
        if !ways.is_local || ways.looked || self.allow_relay || self.actual.posture == Posture::Isolated {
            return None;
        }
        let ends = *ways.looking_since.get_or_insert_with(Instant::now) + LOOKUP;
        (ends > Instant::now()).then_some(ends)
    }

    /// Looks how the brokers are reached now, and whether one would be behind the exclusions of an order.
    pub(super) fn find_routes(&mut self, order: Option<&Order>) {
        let order = order.filter(|order| order.posture == Posture::Isolated);
        let (cut_off, condition) = match self.routes_to_brokers() {
            Ok(ways) => self.judge_routes(&ways, order),
            Err(error) => {
                tracing::warn!(%error, "route to the broker not known");
                (None, None)
            }
        };
        if let Some(why) = cut_off.as_deref().filter(|why| self.machine.cut_off() != Some(why)) {
            tracing::error!("this host cannot be isolated: {why}");
        }
        if let Some(why) = condition.as_ref().filter(|why| self.upkeep.reach.condition.as_ref() != Some(why)) {
            tracing::warn!("this host can be isolated by some orders only: {why}");
        }
        self.machine.handle(Event::CutOff(cut_off), &self.clock.now());
        self.upkeep.reach.condition = condition;
    }

    /// Each address of a broker with the way there. One that failed is not asked again.
    fn routes_to_brokers(&mut self) -> io::Result<Vec<(SocketAddr, Reach)>> {
        let mut routes = self.upkeep.reach.routes.take().map_or_else(Routes::open, Ok)?;
        let uid = rustix::process::geteuid().as_raw();
        let addresses = self.machine.brokers().iter().flat_map(|broker| &broker.addresses);
        let ways = addresses.map(|address| Ok((*address, routes.way(address.ip(), uid)?))).collect::<io::Result<Vec<_>>>()?;
        self.upkeep.reach.routes = Some(routes);
        self.upkeep.reach.is_local = ways.iter().any(|(_, way)| *way == Reach::Here);
        Ok(ways)
    }

    /// Why no way is left behind an order's exclusions; or, where no order is at hand, why only some exclusions leave one. One way is enough.
    fn judge_routes(&mut self, ways: &[(SocketAddr, Reach)], order: Option<&Order>) -> (Option<String>, Option<String>) {
        self.upkeep.reach.taken_for_itself = false;
        let here = self.upkeep.reach.here.as_ref().map(|here| here.broker);
        let ends_here = |(address, way): &(SocketAddr, Reach)| *way != Reach::Plain || here == Some(*address);
        let (mut tunnels, mut relays, mut is_certain) = (BTreeSet::new(), BTreeSet::new(), true);
        for (address, way) in ways {
            match way {
                Reach::Tunnel(_) if self.allow_tunnel => return (None, None),
                Reach::Tunnel(tunnel) => drop(tunnels.insert(tunnel.to_string())),
                Reach::Plain if here != Some(*address) => return (None, None),
                // NAT or a transparent proxy may turn what goes elsewhere to a process on this host.
                Reach::Plain | Reach::Here => match self.relay(*address, order) {
                    Ok(itself) => {
                        // A broker elsewhere can be cut off by others.
                        self.upkeep.reach.taken_for_itself = itself && ways.iter().all(ends_here);
                        return (None, None);
                    }
                    // Not connected: that says nothing until an order comes.
                    Err(Objection::Unknown { .. }) if order.is_none() => return (None, None),
                    Err(objection) => {
                        is_certain &= order.is_some() || !matches!(objection, Objection::Relay { .. });
                        relays.insert(objection.to_string());
                    }
                },
            }
        }
        let mut why = Vec::new();
        if !tunnels.is_empty() {
            let tunnels = tunnels.into_iter().collect::<Vec<_>>().join(", ");
            why.push(format!(
                "every broker is reached through a tunnel ({tunnels}), which an isolation cuts; name a broker that is reached without one, or give --allow-tunnel"
            ));
        }
        if !relays.is_empty() {
            let relays = relays.into_iter().collect::<Vec<_>>().join("; ");
            why.push(format!(
                "{relays}; exclude the relay's connection in the policy, name a broker that is reached without a relay, or give --allow-relay"
            ));
        }
        let why = (!why.is_empty()).then(|| why.join("; "));
        if is_certain { (why, None) } else { (None, why) }
    }

    /// Whether the broker at an address of this host, by which an isolated host would be reached, is taken for the broker itself.
    fn relay(&self, address: SocketAddr, order: Option<&Order>) -> Result<bool, Objection> {
        if self.allow_relay {
            return Ok(false);
        }
        let unknown = Objection::Unknown { broker: address };
        let Some(here) = self.upkeep.reach.here.as_ref().filter(|here| here.broker == address) else { return Err(unknown) };
        // Its connections may have changed since it was connected to.
        let Some(end) = look::look().ok().flatten().filter(|end| end.broker == address) else { return Err(unknown) };
        let gate = order.map(|order| self.gate_of(order)).unwrap_or_default();
        relay::judge(&end, here.server.as_ref(), &gate)?;
        Ok(end.onward.is_empty())
    }

    /// What an order would let pass, if it came now.
    fn gate_of(&self, order: &Order) -> Gate {
        let standing = self.machine.frozen().cloned();
        let mut frozen = standing.unwrap_or_else(|| facts::gather(&self.resolv_conf));
        places::locate(&mut frozen, &order.exclusions);
        places::merge(&mut frozen.names, self.upkeep.names.found());
        frozen.groups = groups::named(&order.exclusions);
        frozen.gate(order, Duration::ZERO).0
    }
}
