//! The kernel's own word that a ruleset is in force: nftables' NEWGEN event, heard inside a host's namespace.

use std::time::{Duration, Instant};

use anyhow::Context;
use portcullis_lab::{Netns, in_netns};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::netlink::{NETFILTER, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with, sockopt};
use tokio::sync::mpsc;

/// include/uapi/linux/netfilter/nfnetlink.h, nf_tables.h: group 7, subsystem 10, message 15.
const NFNLGRP_NFTABLES: u32 = 1 << (7 - 1);
const NEWGEN: u16 = (10 << 8) | 15;
/// A commit tells every rule and element before it tells its generation.
const BUFFER: usize = 4 << 20;
const PATIENCE: Duration = Duration::from_secs(10);

/// Hears each commit in one namespace at the moment of its event.
pub struct Commits(mpsc::UnboundedReceiver<Instant>);

impl Commits {
    pub fn of(netns: &Netns) -> anyhow::Result<Self> {
        let socket = in_netns(netns, listen)?.context("cannot listen to nftables' events")?;
        let (to, from) = mpsc::unbounded_channel();
        std::thread::Builder::new().name("newgen".into()).spawn(move || hear(&socket, &to))?;
        Ok(Self(from))
    }

    /// Forgets what was heard so far.
    pub fn forget(&mut self) {
        while self.0.try_recv().is_ok() {}
    }

    /// The next commit.
    pub async fn next(&mut self) -> anyhow::Result<Instant> {
        self.within(PATIENCE).await?.context("no ruleset came into force")
    }

    pub async fn within(&mut self, patience: Duration) -> anyhow::Result<Option<Instant>> {
        match tokio::time::timeout(patience, self.0.recv()).await {
            Ok(heard) => Ok(Some(heard.context("the listener to nftables' events ended")?)),
            Err(_) => Ok(None),
        }
    }
}

fn listen() -> rustix::io::Result<OwnedFd> {
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, Some(NETFILTER))?;
    sockopt::set_socket_recv_buffer_size_force(&socket, BUFFER)?;
    bind(&socket, &SocketAddrNetlink::new(0, NFNLGRP_NFTABLES))?;
    Ok(socket)
}

fn hear(socket: &OwnedFd, to: &mpsc::UnboundedSender<Instant>) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let length = match recv(socket, &mut buffer[..], RecvFlags::empty()) {
            Ok((length, _)) => length,
            Err(Errno::INTR | Errno::NOBUFS) => continue,
            Err(_) => return,
        };
        let now = Instant::now();
        let mut rest = &buffer[..length];
        while let Some((kind, after)) = message(rest) {
            if kind == NEWGEN && to.send(now).is_err() {
                return;
            }
            rest = after;
        }
    }
}

/// The type of the first message, and what follows it.
fn message(bytes: &[u8]) -> Option<(u16, &[u8])> {
    let length = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    Some((kind, bytes.get(length.next_multiple_of(4).max(4)..).unwrap_or_default()))
}
