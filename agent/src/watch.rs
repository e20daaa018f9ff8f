//! Watches what can open a host behind the agent's back: rules of ours, devices, programs that are attached to devices.
//!
//! It only tells. What is wrong is found by reading back, and put right by the same code that enforces.

pub mod af_xdp;
mod links;
pub mod probes;
pub mod programs;
mod rules;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use netlink_sys::{Socket, SocketAddr};
use portcullis_agent_core::gate::Device;
use portcullis_schemas::events::Culprit;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, sleep_until};

use programs::Program;

/// Deeds, culprits and programs of one disturbance that are named.
const NAMED: usize = 8;
/// Larger than one message of the kernel.
const BUFFER: usize = 64 * 1024;
/// Room for a burst of somebody else's large ruleset. What does not fit is told as lost, and answered by looking.
const ROOM: usize = 8 << 20;

/// What has happened since the last time, taken together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KernelChanges {
    /// Tables of ours were touched by somebody else.
    pub rules: bool,
    /// Devices came, went, were renamed, or changed in another way.
    pub devices: bool,
    /// The last word about each device, by index; None: it has left.
    pub links: BTreeMap<u32, Option<Device>>,
    /// What was done, for people.
    pub what: Vec<String>,
    /// By whom; the kernel names the process that sent the transaction.
    pub by: Vec<Culprit>,
    /// Programs that now see frames before our rules do.
    pub programs: Vec<Program>,
    /// Something of tc changed that may be part of a program.
    pub attached: bool,
    /// Devices, by index, that have left, and whether to another network namespace.
    pub left: Vec<(u32, bool)>,
    /// Events were lost: anything may have happened.
    pub lost: bool,
}

impl KernelChanges {
    /// Whether there is nothing to look at.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Takes what came later as well.
    pub fn merge(&mut self, later: Self) {
        self.rules |= later.rules;
        self.devices |= later.devices;
        self.attached |= later.attached;
        self.lost |= later.lost;
        self.links.extend(later.links);
        later.what.into_iter().for_each(|what| add(&mut self.what, what));
        later.by.into_iter().for_each(|culprit| add(&mut self.by, culprit));
        later.programs.into_iter().for_each(|program| add(&mut self.programs, program));
        later.left.into_iter().for_each(|left| add(&mut self.left, left));
    }
}

fn add<T: PartialEq>(list: &mut Vec<T>, item: T) {
    if list.len() < NAMED && !list.contains(&item) {
        list.push(item);
    }
}

/// The two sources, of the network namespace in which it was made.
pub struct Monitor {
    rules: AsyncFd<Arc<Socket>>,
    links: AsyncFd<Arc<Socket>>,
    transaction: rules::Transaction,
    buffer: Vec<u8>,
}

impl Monitor {
    /// Listens from now on to what devices do, and to what is done to rules while its [`Subscription`] says so. Needs a runtime.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            rules: listen(rules::PROTOCOL, 0)?,
            links: listen(links::PROTOCOL, links::GROUPS)?,
            transaction: rules::Transaction::default(),
            buffer: Vec::with_capacity(BUFFER),
        })
    }

    pub fn watch(&self) -> Subscription {
        Subscription(Arc::clone(self.rules.get_ref()))
    }

    /// Waits for a disturbance, and no longer wakes before `rest` is over: a storm must leave time for everything else. What came until then
    /// comes as one. Nothing is lost where the wait is given up.
    ///
    /// `own` is the number of the socket by which this agent changes rules.
    pub async fn changed(&mut self, rest: Instant, own: Option<u32>) -> KernelChanges {
        sleep_until(rest).await;
        loop {
            let ready = tokio::select! {
                ready = self.rules.ready(Interest::READABLE) => ready,
                ready = self.links.ready(Interest::READABLE) => ready,
            };
            if let Err(error) = ready {
                tracing::error!(%error, "the watch on rules and devices is broken; regular checks go on");
                std::future::pending::<()>().await;
            }
            let found = self.take(own);
            if !found.is_empty() {
                return found;
            }
        }
    }

    /// All that has come until now.
    fn take(&mut self, own: Option<u32>) -> KernelChanges {
        let mut found = KernelChanges::default();
        let (buffer, transaction) = (&mut self.buffer, &mut self.transaction);
        drain(&mut self.rules, buffer, &mut found, |bytes, found| transaction.read(bytes, own, found));
        drain(&mut self.links, buffer, &mut found, links::read);
        found
    }
}

/// Whether rules are listened to. While somebody listens, the kernel writes each transaction out in full, which takes as long as the transaction
/// itself (measured); so nobody does before the rules of an isolation are in force.
#[derive(Clone, Debug)]
pub struct Subscription(Arc<Socket>);

impl Subscription {
    /// What is done to rules is heard from now on. Said again, nothing changes.
    pub fn begin(&self) {
        if let Err(error) = self.0.add_membership(rules::GROUP) {
            tracing::error!(%error, "rules not watched: they are compared every 30 s only");
        }
    }

    /// Nothing new is heard.
    pub fn end(&self) {
        if let Err(error) = self.0.drop_membership(rules::GROUP) {
            tracing::debug!(%error, "nftables events not unsubscribed: they are still delivered");
        }
    }
}

fn listen(protocol: isize, groups: u32) -> io::Result<AsyncFd<Arc<Socket>>> {
    let mut socket = Socket::new(protocol)?;
    socket.bind(&SocketAddr::new(0, groups))?;
    socket.set_non_blocking(true)?;
    // Without CAP_NET_ADMIN the usual size has to do.
    let _ = rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, ROOM);
    #[expect(unsafe_code, reason = "the socket keeps its one descriptor until it is dropped, as register wants it")]
    // SAFETY: `Socket` owns its descriptor, never changes it, and closes it only in drop: when the last who shares it is gone, AsyncFd among them.
    unsafe {
        Ok(AsyncFd::register(Arc::new(socket))?)
    }
}

fn drain(
    socket: &mut AsyncFd<Arc<Socket>>,
    buffer: &mut Vec<u8>,
    found: &mut KernelChanges,
    mut read: impl FnMut(&[u8], &mut KernelChanges),
) {
    loop {
        buffer.clear();
        match socket.get_ref().recv(buffer, 0) {
            Ok(_) => read(buffer, found),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            // ENOBUFS: the kernel had more to say than there was room for.
            Err(_) => {
                found.lost = true;
                break;
            }
        }
    }
    // Ready again as soon as something comes: all until now has been read.
    if let Some(Ok(mut guard)) = futures_util::FutureExt::now_or_never(socket.ready(Interest::READABLE)) {
        guard.clear_ready();
    }
}
