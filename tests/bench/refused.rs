//! The kernel's own word that a ruleset is in force: nftables' NEWGEN event, heard inside a host's namespace.

use std::io;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Context;
use portcullis_lab::{Netns, in_netns};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::netlink::{NETFILTER, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with, sockopt};
use tokio::sync::mpsc;

/// include/uapi/linux/netfilter/nfnetlink.h, nf_tables.h: group 7, subsystem 10, messages 3 and 15, attribute 4.
const NFNLGRP_NFTABLES: u32 = 1 << (7 - 1);
const NEWCHAIN: u16 = (10 << 8) | 3;
const NEWGEN: u16 = (10 << 8) | 15;
const NFTA_CHAIN_HOOK: u16 = 4;
const FAMILY: usize = 16;
const HEADERS: usize = FAMILY + 4;
/// A commit tells every rule and element before it tells its generation.
const BUFFER: usize = 4 << 20;
const PATIENCE: Duration = Duration::from_secs(10);

/// Hears each commit in one namespace at the moment of its event.
pub struct Commits(mpsc::UnboundedReceiver<Commit>);

/// NFPROTO_*
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    Inet = 1,
    Netdev = 5,
}

struct Commit {
    at: Instant,
    /// Families of which it brings chains that stand on a hook: from it on their layer asks packets.
    hooked: Vec<u8>,
}

impl Commits {
    pub fn of(netns: &Netns) -> anyhow::Result<Self> {
        let socket = in_netns(netns, listen)?.context("cannot listen to nftables' events")?;
        let (to, from) = mpsc::unbounded_channel();
        std::thread::Builder::new().name("newgen".into()).spawn(move || {
            first().and_then(|()| hear(&socket, &to)).unwrap_or_else(|error| eprintln!("nftables' events: {error}"));
        })?;
        Ok(Self(from))
    }

    /// Forgets what was heard so far.
    pub fn forget(&mut self) {
        while self.0.try_recv().is_ok() {}
    }

    /// The next commit from which on a layer asks packets; None: that brings none.
    pub async fn next(&mut self, layer: Option<Layer>) -> anyhow::Result<Instant> {
        self.within(layer, PATIENCE).await?.context("no ruleset came into force")
    }

    pub async fn within(&mut self, layer: Option<Layer>, patience: Duration) -> anyhow::Result<Option<Instant>> {
        let end = tokio::time::Instant::now() + patience;
        while let Ok(heard) = tokio::time::timeout_at(end, self.0.recv()).await {
            let commit = heard.context("the listener to nftables' events ended")?;
            if layer.map_or(commit.hooked.is_empty(), |layer| commit.hooked.contains(&(layer as u8))) {
                return Ok(Some(commit.at));
            }
        }
        Ok(None)
    }
}

fn listen() -> rustix::io::Result<OwnedFd> {
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, Some(NETFILTER))?;
    sockopt::set_socket_recv_buffer_size_force(&socket, BUFFER)?;
    bind(&socket, &SocketAddrNetlink::new(0, NFNLGRP_NFTABLES))?;
    Ok(socket)
}

/// Whoever made a commit has more to do, and this thread is not to wait for the end of that.
fn first() -> io::Result<()> {
    let thread = rustix::thread::gettid().as_raw_nonzero().to_string();
    let done = Command::new("chrt").args(["--fifo", "--pid", "50", &thread]).status()?;
    if done.success() { Ok(()) } else { Err(io::Error::other(format!("chrt: {done}"))) }
}

fn hear(socket: &OwnedFd, to: &mpsc::UnboundedSender<Commit>) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    let mut hooked = Vec::new();
    loop {
        let length = match recv(socket, &mut buffer[..], RecvFlags::empty()) {
            Ok((length, _)) => length,
            Err(Errno::INTR | Errno::NOBUFS) => continue,
            Err(error) => return Err(error.into()),
        };
        let at = Instant::now();
        let mut rest = &buffer[..length];
        while let Some((kind, body, after)) = message(rest) {
            if kind == NEWCHAIN && has(body, NFTA_CHAIN_HOOK) {
                hooked.push(rest[FAMILY]);
            }
            if kind == NEWGEN && to.send(Commit { at, hooked: std::mem::take(&mut hooked) }).is_err() {
                return Ok(());
            }
            rest = after;
        }
    }
}

/// The type of the first message, its attributes, and what follows it.
fn message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    let attributes = bytes.get(HEADERS..length).unwrap_or_default();
    Some((kind, attributes, bytes.get(length.next_multiple_of(4).max(4)..).unwrap_or_default()))
}

fn has(mut attributes: &[u8], wanted: u16) -> bool {
    while let Some([a, b, c, d]) = attributes.first_chunk() {
        if u16::from_ne_bytes([*c, *d]) & 0x3fff == wanted {
            return true;
        }
        let length = usize::from(u16::from_ne_bytes([*a, *b])).next_multiple_of(4).max(4);
        attributes = attributes.get(length..).unwrap_or_default();
    }
    false
}
