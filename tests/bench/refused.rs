//! When a host is cut off and let out again, as a program on it meets it: it sends all the time, and is refused or not.
//!
//! Nobody listens to nftables' events meanwhile: the kernel writes a transaction out for a listener, which takes as long as making it.

use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};
use std::{io, thread};

use anyhow::Context;
use portcullis_dev::{HUB_V4, Netns, in_netns};
use portcullis_schemas::events::Posture;
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::addr::{SocketAddrArg, SocketAddrLen, SocketAddrOpaque};
use rustix::net::netdevice::name_to_index;
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, sendto, socket_with};
use tokio::sync::mpsc;

/// Between two tries.
const TICK: Duration = Duration::from_micros(250);
const PATIENCE: Duration = Duration::from_secs(10);
/// RFC 863, discard.
const PORT: u16 = 9;
const DEVICE: &str = "eth0";
/// IEEE 802.1Q, the nearest bridge: no bridge sends that on.
const NEAREST: [u8; 8] = [0x01, 0x80, 0xc2, 0, 0, 0x0e, 0, 0];
/// IEEE 802, for local experiments.
const EXPERIMENTAL: u16 = 0x88b5;
const AF_PACKET: u16 = 17;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    /// An ordinary socket's datagram.
    Inet,
    /// A packet socket's frame, which no other layer sees.
    Netdev,
}

/// Meets the changes of one namespace.
pub struct Refusals {
    wanted: std::sync::mpsc::Sender<Wanted>,
    met: mpsc::UnboundedReceiver<io::Result<Instant>>,
}

struct Wanted {
    layer: Layer,
    posture: Posture,
    patience: Duration,
}

impl Refusals {
    pub fn of(netns: &Netns) -> anyhow::Result<Self> {
        let tries = in_netns(netns, Tries::open)?.context("cannot send from a host")?;
        let (wanted, next) = std::sync::mpsc::channel::<Wanted>();
        let (to, met) = mpsc::unbounded_channel();
        thread::Builder::new().name("tries".into()).spawn(move || {
            let first = first();
            while let Ok(wanted) = next.recv() {
                let failed = || first.as_ref().err().map(|error| io::Error::other(error.to_string()));
                if to.send(failed().map_or_else(|| tries.until(&wanted), Err)).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { wanted, met })
    }

    /// Begins to try; [`Self::met`] says when it was in this posture. Asked twice, one comes after the other.
    pub fn begin(&self, layer: Layer, posture: Posture) -> anyhow::Result<()> {
        self.begin_for(layer, posture, PATIENCE)
    }

    pub fn begin_for(&self, layer: Layer, posture: Posture, patience: Duration) -> anyhow::Result<()> {
        self.wanted.send(Wanted { layer, posture, patience }).ok().context("the sender has ended")
    }

    pub async fn met(&mut self) -> anyhow::Result<Instant> {
        Ok(self.met.recv().await.context("the sender has ended")??)
    }
}

struct Tries {
    datagrams: OwnedFd,
    frames: OwnedFd,
    device: u32,
}

impl Tries {
    fn open() -> rustix::io::Result<Self> {
        let datagrams = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
        // Of no protocol: it hears nothing.
        let frames = socket_with(AddressFamily::PACKET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
        let device = name_to_index(&datagrams, DEVICE)?;
        Ok(Self { datagrams, frames, device })
    }

    fn one(&self, layer: Layer) -> io::Result<Posture> {
        let sent = match layer {
            Layer::Inet => sendto(&self.datagrams, b"x", SendFlags::DONTWAIT, &SocketAddr::new(HUB_V4.into(), PORT)),
            Layer::Netdev => sendto(&self.frames, b"x", SendFlags::DONTWAIT, &Nearest(self.device)),
        };
        match sent {
            Ok(_) => Ok(Posture::Open),
            // How a hook of the inet family refuses, and one of a device (NET_XMIT_DROP).
            Err(Errno::PERM | Errno::NOBUFS) => Ok(Posture::Isolated),
            Err(error) => Err(error.into()),
        }
    }

    fn until(&self, wanted: &Wanted) -> io::Result<Instant> {
        let end = Instant::now() + wanted.patience;
        loop {
            let posture = self.one(wanted.layer)?;
            let now = Instant::now();
            if posture == wanted.posture {
                return Ok(now);
            }
            if now > end {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("{:?} was never {:?}", wanted.layer, wanted.posture),
                ));
            }
            thread::sleep(TICK);
        }
    }
}

/// It is not to wait for those whom it watches.
fn first() -> io::Result<()> {
    let thread = rustix::thread::gettid().as_raw_nonzero().to_string();
    let done = Command::new("chrt").args(["--fifo", "--pid", "50", &thread]).status()?;
    if done.success() { Ok(()) } else { Err(io::Error::other(format!("chrt: {done}"))) }
}

/// A link-layer address: the nearest bridge, by the device of this index.
struct Nearest(u32);

/// include/uapi/linux/if_packet.h
#[repr(C)]
struct SockaddrLl {
    family: u16,
    protocol: u16,
    index: u32,
    hardware: u16,
    kind: u8,
    length: u8,
    address: [u8; 8],
}

#[expect(unsafe_code, reason = "rustix has no type for addresses of packet sockets")]
// SAFETY: the pointer is to a whole sockaddr_ll with its length, both for the time of the call.
unsafe impl SocketAddrArg for Nearest {
    unsafe fn with_sockaddr<R>(&self, f: impl FnOnce(*const SocketAddrOpaque, SocketAddrLen) -> R) -> R {
        let protocol = EXPERIMENTAL.to_be();
        let address =
            SockaddrLl { family: AF_PACKET, protocol, index: self.0, hardware: 0, kind: 0, length: 6, address: NEAREST };
        f((&raw const address).cast(), size_of::<SockaddrLl>() as SocketAddrLen)
    }
}
