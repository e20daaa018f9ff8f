//! Rules to the kernel without another program: one nfnetlink transaction over a socket that stays open.
//!
//! What our rules are made of is compiled by the core. The socket is also what owns the tables where the kernel can lock them.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};
use nftables::schema::Nftables;
use portcullis_agent_core::lower::{self, LOCKED, Message};
use portcullis_agent_core::ruleset::{self, PROBE, TABLE};
use portcullis_agent_core::verify::Listing;
use rustix::net::sockopt::{set_socket_recv_buffer_size_force, set_socket_send_buffer_size_force};

use super::{Firewall, FirewallError, NFNL_SUBSYS_NFTABLES, NFPROTO_INET, NFPROTO_NETDEV, Nft};
use crate::netlink::attributes;

/// include/uapi/linux/netlink.h, netfilter/nfnetlink.h
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const GETTABLE: u16 = 1;
const NFTA_TABLE_FLAGS: u16 = 2;
const NFTA_TABLE_OWNER: u16 = 7;
const ENOENT: i32 = 2;
const EOPNOTSUPP: i32 = 95;
const EAFNOSUPPORT: i32 = 97;
const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
const ERROR: u16 = 2;
const HEADER: usize = 16;

/// A transaction goes in one piece. Ten thousand exclusions of both directions need some 2 MiB.
const LARGEST: usize = 32 << 20;
const BUFFER: usize = 64 * 1024;

/// Not for another network namespace than that of the thread that made it.
#[derive(Debug)]
pub struct Kernel {
    socket: Mutex<Socket>,
    /// Whether tables are made so that nobody else can change them.
    locks: bool,
    /// The rules that stand were not brought by this socket.
    by_nft: AtomicBool,
    /// Reads back what stands, and brings rules that the compiler does not know.
    nft: Result<Nft, String>,
}

impl Kernel {
    /// Tables that it makes can be changed by all who have the right to.
    pub fn open() -> Result<Self, FirewallError> {
        let socket = || {
            let mut socket = Socket::new(NETLINK_NETFILTER)?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            // Without CAP_NET_ADMIN nothing else would work either.
            let _ = set_socket_send_buffer_size_force(&socket, LARGEST);
            let _ = set_socket_recv_buffer_size_force(&socket, 1 << 20);
            Ok(socket)
        };
        let socket = socket().map_err(FirewallError::Io)?;
        Ok(Self {
            socket: Mutex::new(socket),
            locks: false,
            by_nft: AtomicBool::new(false),
            nft: Nft::find().map_err(|error| error.to_string()),
        })
    }

    /// Tables that it makes, and those that a former owner has left behind, are its own, where the kernel can do that (6.9 and later): nobody
    /// else changes them, and they outlive it.
    pub fn locking() -> Result<Self, FirewallError> {
        let mut kernel = Self::open()?;
        let probe = lower::lower(&ruleset::lock_probe(), LOCKED);
        kernel.locks = probe.is_ok_and(|messages| send(&kernel.lock(), &messages, false).is_ok());
        Ok(kernel)
    }

    /// Whether tables that it makes are locked.
    pub fn locks(&self) -> bool {
        self.locks
    }

    /// Whether each table of ours that stands belongs to this socket alone.
    pub fn is_locked(&self) -> Result<bool, FirewallError> {
        let socket = self.lock();
        let mut own = SocketAddr::new(0, 0);
        socket.get_address(&mut own).map_err(FirewallError::Io)?;
        let mut stands = false;
        for family in [NFPROTO_INET, NFPROTO_NETDEV] {
            let Some(body) = table(&socket, family)? else { continue };
            stands = true;
            let value = |wanted: u16| attributes(body.get(4..).unwrap_or_default()).find(|(kind, _, _)| *kind == wanted);
            let number = |wanted: u16| Some(u32::from_be_bytes(*value(wanted)?.1.first_chunk()?));
            if number(NFTA_TABLE_FLAGS) != Some(LOCKED) || number(NFTA_TABLE_OWNER) != Some(own.port_number()) {
                return Ok(false);
            }
        }
        Ok(stands)
    }

    /// Whether a table of ours stands and asks no packet (NFT_TABLE_F_DORMANT).
    pub fn is_dormant(&self) -> Result<bool, FirewallError> {
        const DORMANT: u32 = 0x1;
        for family in [NFPROTO_INET, NFPROTO_NETDEV] {
            let Some(body) = table(&self.lock(), family)? else { continue };
            let mut found = attributes(body.get(4..).unwrap_or_default());
            let flags = found.find(|(kind, _, _)| *kind == NFTA_TABLE_FLAGS).and_then(|(_, value, _)| value.first_chunk());
            if flags.is_some_and(|flags| u32::from_be_bytes(*flags) & DORMANT != 0) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The number by which the kernel names this socket in the events of what it does.
    pub fn port(&self) -> Option<u32> {
        let mut own = SocketAddr::new(0, 0);
        self.lock().get_address(&mut own).is_ok().then(|| own.port_number())
    }

    /// Whether the kernel tells of what this agent did under [`Self::port`].
    pub fn is_direct(&self) -> bool {
        !self.by_nft.load(Ordering::Relaxed)
    }

    fn transact(&self, batch: &Nftables<'_>, commit: bool) -> Result<(), FirewallError> {
        match self.direct(batch, commit, if self.locks { LOCKED } else { 0 }) {
            // A table that stands without the lock cannot get it (nf_tables_updtable); it is kept, and has it after the next release.
            Err(FirewallError::Kernel { source, .. }) if self.locks && source.raw_os_error() == Some(EOPNOTSUPP) => {
                self.direct(batch, commit, 0)
            }
            done => done,
        }
    }

    fn direct(&self, batch: &Nftables<'_>, commit: bool, table_flags: u32) -> Result<(), FirewallError> {
        match lower::lower(batch, table_flags) {
            Ok(messages) => {
                send(&self.lock(), &messages, commit)?;
                self.by_nft.fetch_and(!commit, Ordering::Relaxed);
                Ok(())
            }
            // nft would take the name for that of a device.
            Err(unknown) if ruleset::is_for_every_device(batch) => Err(FirewallError::Unavailable(unknown.to_string())),
            Err(unknown) => {
                tracing::debug!(%unknown, "by nft");
                self.by_nft.fetch_or(commit, Ordering::Relaxed);
                let nft = self.nft()?;
                if commit { nft.apply(batch) } else { nft.check(batch) }
            }
        }
    }

    /// Whether what stands can be read back.
    pub fn reads_back(&self) -> Result<(), FirewallError> {
        self.nft().map(drop)
    }

    fn nft(&self) -> Result<&Nft, FirewallError> {
        self.nft.as_ref().map_err(|error| FirewallError::Unavailable(error.clone()))
    }

    fn lock(&self) -> MutexGuard<'_, Socket> {
        // Whatever was left unread is read away before the next transaction.
        self.socket.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Firewall for Kernel {
    fn apply(&self, batch: &Nftables<'_>) -> Result<(), FirewallError> {
        self.transact(batch, true)
    }

    fn check(&self, batch: &Nftables<'_>) -> Result<(), FirewallError> {
        self.transact(batch, false)
    }

    /// Kernel 6.17 and later. An nft that does not know such a chain misses it when it reads its rules, and then reads for ever (1.0.6), whoever
    /// runs it; so it is shown one without rules, in a table that no packet meets.
    fn covers_every_device(&self) -> bool {
        const DORMANT: u32 = 0x1;
        let probe = ruleset::every_device_probe();
        let Ok(nft) = self.nft() else { return false };
        if self.check(&probe).is_err() || self.direct(&probe, true, DORMANT).is_err() {
            return false;
        }
        let shown = nft.shows_chain("netdev", PROBE).unwrap_or(false);
        self.apply(&ruleset::probed()).is_ok() && shown
    }

    fn stands(&self) -> Result<bool, FirewallError> {
        for family in [NFPROTO_INET, NFPROTO_NETDEV] {
            if table(&self.lock(), family)?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// By nft: what one program has written another one reads. On which devices the chains stand comes from the kernel: nft's JSON says it from
    /// version 1.0.7 on.
    fn list(&self) -> Result<Option<Listing>, FirewallError> {
        let Some(mut listing) = self.nft()?.list()? else { return Ok(None) };
        super::groups::correct(&mut listing).map_err(FirewallError::Io)?;
        super::hooks::complete(&mut listing).map_err(FirewallError::Io)?;
        Ok(Some(listing))
    }
}

/// A batch without its end is checked whole and then dropped (nfnetlink_rcv_batch).
fn send(socket: &Socket, messages: &[Message], commit: bool) -> Result<(), FirewallError> {
    let mut bytes = Vec::with_capacity(messages.iter().map(|message| message.body.len() + 20).sum::<usize>() + 40);
    // The subsystem stands where a message of a subsystem has its resource.
    push(&mut bytes, (BATCH_BEGIN, REQUEST, 0), (0, NFNL_SUBSYS_NFTABLES), &[]);
    for (number, message) in messages.iter().enumerate() {
        // The kernel does all of it before it returns; errors come in any case, and one acknowledgement says that it came to the end.
        let ack = if number + 1 == messages.len() { ACK } else { 0 };
        let kind = NFNL_SUBSYS_NFTABLES << 8 | u16::from(message.kind);
        push(&mut bytes, (kind, REQUEST | ack | message.flags, number as u32 + 1), (message.family, 0), &message.body);
    }
    if commit {
        push(&mut bytes, (BATCH_END, REQUEST, 0), (0, NFNL_SUBSYS_NFTABLES), &[]);
    }
    // The answer to a transaction that was given up.
    answers(socket, |_, _, _| ()).map_err(FirewallError::Io)?;
    socket.send(&bytes, 0).map_err(FirewallError::Io)?;
    let mut left = Vec::new();
    let told = |kind, sequence, body: &[u8]| {
        if kind == ERROR {
            left.push((sequence, body.first_chunk().map_or(0, |bytes| i32::from_ne_bytes(*bytes))));
        }
    };
    answers(socket, told).map_err(FirewallError::Io)?;
    let wrong = left.iter().find(|(_, errno)| *errno != 0);
    match wrong {
        Some((sequence, errno)) => {
            let about =
                (*sequence as usize).checked_sub(1).and_then(|at| messages.get(at)).map_or("the transaction", |m| &m.about);
            let source = io::Error::from_raw_os_error(-errno);
            Err(FirewallError::Kernel { about: about.to_owned(), source })
        }
        None if left.is_empty() && !messages.is_empty() => Err(FirewallError::Silent),
        None => Ok(()),
    }
}

/// What the kernel says of our table of a family. None: it does not stand, or this kernel has no such family.
fn table(socket: &Socket, family: u8) -> Result<Option<Vec<u8>>, FirewallError> {
    let mut bytes = Vec::new();
    let name = [TABLE.as_bytes(), &[0]].concat();
    let mut body = ((name.len() + 4) as u16).to_ne_bytes().to_vec();
    body.extend(1u16.to_ne_bytes());
    body.extend(name);
    body.resize(body.len().next_multiple_of(4), 0);
    push(&mut bytes, (NFNL_SUBSYS_NFTABLES << 8 | GETTABLE, REQUEST, 1), (family, 0), &body);
    answers(socket, |_, _, _| ()).map_err(FirewallError::Io)?;
    socket.send(&bytes, 0).map_err(FirewallError::Io)?;
    let mut found = Err(FirewallError::Silent);
    let told = |kind: u16, _, body: &[u8]| {
        found = match (kind, body.first_chunk().map(|bytes| -i32::from_ne_bytes(*bytes))) {
            (ERROR, Some(ENOENT | EOPNOTSUPP | EAFNOSUPPORT)) => Ok(None),
            (ERROR, Some(errno)) if errno != 0 => {
                let source = io::Error::from_raw_os_error(errno);
                Err(FirewallError::Kernel { about: "a look at the tables".into(), source })
            }
            _ => Ok(Some(body.to_vec())),
        };
    };
    answers(socket, told).map_err(FirewallError::Io)?;
    found
}

/// All answers that wait, as type, sequence and body. The kernel answers before it returns from what was sent.
fn answers(socket: &Socket, mut each: impl FnMut(u16, u32, &[u8])) -> io::Result<()> {
    const DONTWAIT: i32 = 0x40;
    let mut buffer = Vec::with_capacity(BUFFER);
    loop {
        buffer.clear();
        match socket.recv(&mut buffer, DONTWAIT) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
        let mut rest = &buffer[..];
        while let Some((kind, sequence, body, after)) = crate::netlink::message(rest) {
            rest = after;
            each(kind, sequence, body);
        }
    }
}

fn push(bytes: &mut Vec<u8>, (kind, flags, sequence): (u16, u16, u32), (family, resource): (u8, u16), body: &[u8]) {
    bytes.extend(((HEADER + 4 + body.len()) as u32).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend(0u32.to_ne_bytes());
    bytes.push(family);
    bytes.push(0);
    bytes.extend(resource.to_be_bytes());
    bytes.extend(body);
}
