//! Ends the connections that stood before the gate dropped: sockets over sock_diag, conntrack entries over ctnetlink.
//!
//! Everything here blocks for some milliseconds and works in the network namespace of the calling thread.

pub(crate) mod addresses;
mod conntrack;
mod diag;

use std::io;

use portcullis_agent_core::gate::{Connection, Gate};
use portcullis_agent_core::sever;

pub(crate) use addresses::with_devices as addresses_with_devices;
pub(crate) use conntrack::answers as conntrack_answers;
pub use conntrack::{TableFull, is_full};
pub use diag::Sockets;
pub(crate) use diag::can_destroy;

/// What was ended. An error here does not undo the isolation: the rules stand, and the state event carries it.
#[derive(Debug, Default)]
pub struct Severed {
    pub sockets_killed: u64,
    pub flows_flushed: u64,
    pub errors: Vec<SeverError>,
}

#[derive(Debug, thiserror::Error)]
pub enum SeverError {
    #[error("cannot list the sockets of this host over sock_diag")]
    ListSockets(#[source] io::Error),
    #[error("this kernel cannot destroy sockets (CONFIG_INET_DIAG_DESTROY); connections hang until they time out")]
    DestroyUnsupported,
    #[error("cannot destroy the socket of {0:?}")]
    Destroy(Connection, #[source] io::Error),
    #[error("cannot destroy sockets over sock_diag")]
    DestroySockets(#[source] io::Error),
    #[error("cannot list the addresses of this host")]
    ListAddresses(#[source] io::Error),
    #[error("cannot list conntrack entries over ctnetlink")]
    ListFlows(#[source] io::Error),
    #[error("cannot delete conntrack entries over ctnetlink")]
    DeleteFlows(#[source] io::Error),
    #[error("cannot delete the conntrack entry {0:?}")]
    DeleteFlow(sever::Flow, #[source] io::Error),
}

/// The sockets of this host and what becomes of each behind `gate`.
pub fn survey(gate: &Gate) -> Result<Survey, SeverError> {
    let local = addresses::list().map_err(SeverError::ListAddresses)?;
    let sockets = Sockets::list().map_err(SeverError::ListSockets)?;
    let cut = sever::cut(sockets.as_slice(), gate, &local);
    Ok(Survey { sockets, cut })
}

pub struct Survey {
    sockets: Sockets,
    cut: sever::Cut,
}

impl Survey {
    pub fn standing(&self) -> &[Connection] {
        &self.cut.standing
    }

    /// Destroys what the gate cuts off. To be called when the rules are in force, lest a program comes back at once.
    pub fn destroy(&mut self, severed: &mut Severed) {
        self.sockets.destroy(&self.cut.destroy, severed);
    }
}

/// Takes what the host says to itself out of a conntrack table that is nearly full. None where it is not.
pub fn check_conntrack() -> Result<Option<TableFull>, SeverError> {
    if !is_full() {
        return Ok(None);
    }
    let local = addresses::list().map_err(SeverError::ListAddresses)?;
    conntrack::check_conntrack(&local).map(Some)
}

/// Deletes the conntrack entries of everything that does not pass, also of what was forwarded.
pub fn flush(gate: &Gate, severed: &mut Severed) {
    match addresses::list() {
        Ok(local) => conntrack::flush(gate, &local, severed),
        Err(error) => severed.errors.push(SeverError::ListAddresses(error)),
    }
}
