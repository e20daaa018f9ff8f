//! All that the agent's one loop takes in, but for orders, which wait elsewhere (`broker/pending_orders.rs`).

use std::collections::BTreeMap;
use std::net::IpAddr;

use portcullis_schemas::events::Probe;
use tokio::sync::mpsc;

use crate::broker;
use crate::disk::writer;
use crate::firewall::worker;
use crate::local::socket::Exchange;
use crate::sockets::{SeverError, TableFull};

#[derive(Debug)]
pub enum Input {
    Broker(broker::event::Event),
    /// A request on the local socket.
    Exchange(Exchange),
    /// Names of exclusions, as far as name servers have answered for them.
    Names(BTreeMap<String, Vec<IpAddr>>),
    /// The same for the lookup of this number, for which an order waits.
    Located {
        number: u64,
        found: BTreeMap<String, Vec<IpAddr>>,
    },
    /// A round of probes, made after so many changes of the rules.
    Probed {
        changes: u64,
        found: Vec<Probe>,
    },
    /// Whether the conntrack table was full, and what was taken out of it.
    Conntrack(Result<Option<TableFull>, SeverError>),
    /// The kernel, or nft, has done something.
    Kernel(Box<worker::Done>),
    /// The disk has.
    Disk(writer::Done),
    /// SIGTERM or SIGINT.
    Stop(&'static str),
}

/// Where inputs come from, but for the threads of kernel and disk.
#[derive(Debug)]
pub struct Inputs {
    /// The agent's own tasks, which hold a sender as long as it lives.
    pub own: mpsc::Receiver<Input>,
    pub broker: mpsc::Receiver<broker::event::Event>,
    pub local: mpsc::Receiver<Exchange>,
}

impl Inputs {
    /// None once the agent has gone.
    pub async fn next(&mut self) -> Option<Input> {
        tokio::select! {
            input = self.own.recv() => input,
            Some(event) = self.broker.recv() => Some(Input::Broker(event)),
            Some(exchange) = self.local.recv() => Some(Input::Exchange(exchange)),
        }
    }
}
