//! One connection for as long as the process lives: what goes over it, and the brokers' names behind it, which may move.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use portcullis_agent_core::jitter;
use portcullis_agent_core::record::Broker;
use portcullis_schemas::Prefix;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::sleep;

use crate::broker::event::Event;
use crate::broker::heartbeat::{self, Identity, Snapshot};
use crate::broker::outbox::Publisher;
use crate::broker::pending_orders::PendingOrders;
use crate::broker::servers::{self, Server};
use crate::broker::{link, orders};
use crate::host::facts;

const RESOLVE_EVERY: Duration = Duration::from_secs(300);
/// While there is no connection.
const RESOLVE_AWAY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(15));

/// What the agent has to do with its broker.
pub struct Session {
    pub next_broker: Arc<Notify>,
    pub servers: Vec<Server>,
    pub credentials: Option<PathBuf>,
    pub resolv_conf: Vec<PathBuf>,
    pub prefix: Prefix,
    pub identity: Identity,
    pub seen: watch::Receiver<Snapshot>,
    pub publisher: Publisher,
    pub orders: PendingOrders,
    pub events: mpsc::Sender<Event>,
}

impl Session {
    /// Runs as long as the process. `known`: where the brokers were.
    pub async fn run(self, mut known: Vec<Broker>) {
        let Self { next_broker, servers, credentials, resolv_conf, prefix, identity, seen, publisher, orders, events } = self;
        let host = identity.host.clone();
        // An order may come with the first breath of the connection: by then the control channel has to be known.
        if known.iter().any(|broker| broker.addresses.is_empty()) {
            known = servers::resolve(&servers, &known, false, &facts::name_servers(&resolv_conf)).await;
            let _ = events.send(Event::Brokers(known.clone())).await;
        }
        let (places, current) = watch::channel(servers::addresses(&servers, &known));
        let mut attempt = 0;
        let mut link = loop {
            let settings = link::Settings {
                host: host.clone(),
                prefix: prefix.clone(),
                credentials: credentials.clone(),
                servers: current.clone(),
            };
            match link::connect(settings, events.clone()).await {
                Ok(link) => break link,
                Err(error) => tracing::error!(error = format!("{error:#}"), "NATS client not started: retrying"),
            }
            attempt += 1;
            sleep(jitter::back_off(&host, "connect", attempt, Duration::from_secs(1), Duration::from_secs(30))).await;
        };
        tokio::spawn(orders::ingress(host.clone(), link.clone(), seen.clone(), orders, events.clone()));
        tokio::spawn(link::move_on(link.clone(), next_broker));
        tokio::spawn(publisher.run(host.clone(), link.clone(), events.clone()));
        tokio::spawn(heartbeat::run(identity, link.clone(), seen));
        if !servers::has_names(&servers) {
            return;
        }
        let mut tries = 0;
        let mut told = places.borrow().clone();
        for count in 0u64.. {
            let now = servers::addresses(&servers, &known);
            if told != now && link.is_up() {
                match link.move_to(now.clone()).await {
                    Ok(()) => told = now,
                    Err(error) => {
                        tracing::warn!(error = format!("{error:#}"), "broker's new address not set in the NATS client: retrying")
                    }
                }
            }
            let pause = match link.is_up() {
                true => jitter::between(&host, "resolve", count, RESOLVE_EVERY.mul_f32(0.8), RESOLVE_EVERY),
                // A broker that is away may have moved, and its name may follow later.
                false => jitter::back_off(&host, "move", tries + 1, RESOLVE_AWAY.0, RESOLVE_AWAY.1),
            };
            tokio::select! {
                () = sleep(pause) => tries += 1,
                () = link.changed() => {
                    tries = 0;
                    continue;
                }
            }
            known = servers::resolve(&servers, &known, link.is_up(), &facts::name_servers(&resolv_conf)).await;
            places.send_replace(servers::addresses(&servers, &known));
            if events.send(Event::Brokers(known.clone())).await.is_err() {
                return;
            }
        }
    }
}
