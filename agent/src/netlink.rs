//! One netlink socket: a request with its acknowledgement, a dump with its parts, attributes in and out.

use std::io;
use std::ops::ControlFlow;
use std::time::Duration;

use netlink_sys::{Socket, SocketAddr};
use rustix::net::sockopt::{Timeout, set_socket_timeout};

/// include/uapi/linux/netlink.h
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_DUMP: u16 = 0x300;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const HEADER: usize = 16;
/// NLA_F_NESTED and NLA_F_NET_BYTEORDER are no part of the type.
const TYPE_MASK: u16 = 0x3fff;

/// The kernel answers at once; this only keeps a lost answer from hanging the agent.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Larger than any part of a dump: the kernel makes them of up to 32 KiB.
const BUFFER: usize = 64 * 1024;

/// Requests in one datagram: their acknowledgements fit into the usual receive buffer.
const AT_ONCE: usize = 64;

#[derive(Debug)]
pub(crate) struct Netlink {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Netlink {
    pub(crate) fn open(protocol: isize) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        set_socket_timeout(&socket, Timeout::Recv, Some(TIMEOUT))?;
        Ok(Self { socket, sequence: 0, buffer: Vec::with_capacity(BUFFER) })
    }

    /// Sends one request and waits for its acknowledgement.
    pub(crate) fn ask(&mut self, kind: u16, body: &[u8]) -> io::Result<()> {
        self.send(kind, NLM_F_ACK, body)?;
        self.receive(&mut whole(|_| {}))
    }

    /// Sends many requests of one kind, and gives the number of each with what became of it to `each`.
    pub(crate) fn ask_all<B: AsRef<[u8]>>(
        &mut self,
        kind: u16,
        bodies: &[B],
        mut each: impl FnMut(usize, io::Result<()>),
    ) -> io::Result<()> {
        for (part, bodies) in bodies.chunks(AT_ONCE).enumerate() {
            let first = self.sequence.wrapping_add(1);
            let mut messages = Vec::new();
            for body in bodies {
                self.sequence = self.sequence.wrapping_add(1);
                let body = body.as_ref();
                push_message(&mut messages, (kind, NLM_F_REQUEST | NLM_F_ACK), self.sequence, body);
                messages.resize(messages.len().next_multiple_of(4), 0);
            }
            self.socket.send(&messages, 0)?;
            let mut left = bodies.len();
            while left > 0 {
                self.fill()?;
                let mut rest = &self.buffer[..];
                while let Some((kind, sequence, body, after)) = message(rest) {
                    rest = after;
                    let number = sequence.wrapping_sub(first) as usize;
                    if kind == NLMSG_ERROR && number < bodies.len() {
                        left -= 1;
                        each(part * AT_ONCE + number, outcome(body));
                    }
                }
            }
        }
        Ok(())
    }

    /// Sends one request and gives the body of what is answered to `each`.
    pub(crate) fn get(&mut self, kind: u16, body: &[u8], each: impl FnMut(&[u8])) -> io::Result<()> {
        self.send(kind, NLM_F_ACK, body)?;
        self.receive(&mut whole(each))
    }

    /// Asks for a list and gives each entry's body to `each`.
    pub(crate) fn dump(&mut self, kind: u16, body: &[u8], each: impl FnMut(&[u8])) -> io::Result<()> {
        self.send(kind, NLM_F_DUMP, body)?;
        self.receive(&mut whole(each))
    }

    /// Asks for a list and gives each entry's body to `each` until it breaks. The socket goes, and what was not read with it.
    pub(crate) fn search(mut self, kind: u16, body: &[u8], mut each: impl FnMut(&[u8]) -> ControlFlow<()>) -> io::Result<()> {
        self.send(kind, NLM_F_DUMP, body)?;
        self.receive(&mut each)
    }

    fn send(&mut self, kind: u16, flags: u16, body: &[u8]) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut message = Vec::with_capacity(HEADER + body.len());
        push_message(&mut message, (kind, NLM_F_REQUEST | flags), self.sequence, body);
        self.socket.send(&message, 0).map(drop)
    }

    /// One datagram.
    fn fill(&mut self) -> io::Result<()> {
        loop {
            self.buffer.clear();
            match self.socket.recv(&mut self.buffer, 0) {
                // A signal ends a wait that has a time-out, whatever its handler says about restarting.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                received => return received.map(drop),
            }
        }
    }

    fn receive(&mut self, each: &mut dyn FnMut(&[u8]) -> ControlFlow<()>) -> io::Result<()> {
        loop {
            self.fill()?;
            let mut rest = &self.buffer[..];
            while let Some((kind, sequence, body, after)) = message(rest) {
                rest = after;
                match kind {
                    // The answer to an earlier request that was given up.
                    _ if sequence != self.sequence => {}
                    NLMSG_ERROR | NLMSG_DONE => return outcome(body),
                    _ if each(body).is_break() => return Ok(()),
                    _ => {}
                }
            }
        }
    }
}

fn whole(mut each: impl FnMut(&[u8])) -> impl FnMut(&[u8]) -> ControlFlow<()> {
    move |body| {
        each(body);
        ControlFlow::Continue(())
    }
}

fn push_message(bytes: &mut Vec<u8>, (kind, flags): (u16, u16), sequence: u32, body: &[u8]) {
    bytes.extend(((HEADER + body.len()) as u32).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend(0u32.to_ne_bytes());
    bytes.extend(body);
}

/// The messages of one datagram as (type, body).
pub(crate) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let (kind, _, body, after) = message(bytes)?;
        bytes = after;
        Some((kind, body))
    })
}

/// Type, sequence and body of the first message, and what follows it.
pub(crate) fn message(bytes: &[u8]) -> Option<(u16, u32, &[u8], &[u8])> {
    let length = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    let sequence = u32::from_ne_bytes(bytes.get(8..12)?.try_into().ok()?);
    let after = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some((kind, sequence, bytes.get(HEADER..length)?, after))
}

/// Both ends of an answer begin with 0 or a negative errno.
fn outcome(body: &[u8]) -> io::Result<()> {
    match body.first_chunk().map(|bytes| i32::from_ne_bytes(*bytes)) {
        None | Some(0) => Ok(()),
        Some(errno) => Err(io::Error::from_raw_os_error(-errno)),
    }
}

/// Attributes as (type, value, whole attribute with its header).
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8], &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(*bytes.first_chunk()?));
        let kind = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?) & TYPE_MASK;
        let (value, whole) = (bytes.get(4..length)?, &bytes[..length]);
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value, whole))
    })
}

/// The value of the first attribute of a type.
pub(crate) fn value(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(kind, _, _)| *kind == wanted).map(|(_, value, _)| value)
}

/// A text attribute without its NUL.
pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.strip_suffix(&[0]).unwrap_or(bytes)).into_owned()
}

/// A number in the byte order of the host.
pub(crate) fn number(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}

/// A short attribute, built from its value.
pub(crate) fn push(message: &mut Vec<u8>, kind: u16, value: &[u8]) {
    message.extend(((value.len() + 4) as u16).to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    push_padded(message, value);
}

pub(crate) fn push_padded(message: &mut Vec<u8>, attribute: &[u8]) {
    message.extend(attribute);
    message.resize(message.len().next_multiple_of(4), 0);
}
