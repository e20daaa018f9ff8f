//! How rules reach the kernel, and the whole of dropping and lifting the gate.

pub mod enforce;
mod gate;
mod groups;
mod hooks;
mod kernel;
mod layers;
mod nft;
mod untracked;
pub mod worker;

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use nftables::schema::Nftables;
use portcullis_agent_core::verify::Listing;

pub use gate::{
    Check, Dropped, Prepared, Timing, check, drop_gate, is_down, lift_gate, lift_standing_gate, prepare_gate, restore_gate,
};
pub use kernel::Kernel;
pub use layers::Layers;
pub use nft::Nft;
pub use untracked::exempting;
pub(crate) use untracked::family;

/// include/uapi/linux/netfilter.h, netfilter/nfnetlink.h
const NFPROTO_INET: u8 = 1;
const NFPROTO_NETDEV: u8 = 5;
const NFNL_SUBSYS_NFTABLES: u16 = 10;

/// The way to the kernel. Calls block for some milliseconds and work in the network namespace of the calling thread.
pub trait Firewall: Send + Sync {
    /// Applies the batch as one transaction: all of it or nothing.
    fn apply(&self, batch: &Nftables<'_>) -> Result<(), FirewallError>;

    /// Makes what no packet is asked about yet.
    fn prepare(&self, batch: &Nftables<'_>) -> Result<(), FirewallError> {
        self.apply(batch)
    }

    /// All that was wanted is in force now.
    fn in_force(&self) {}

    /// Whether the kernel would take the batch. Changes nothing.
    fn check(&self, batch: &Nftables<'_>) -> Result<(), FirewallError>;

    /// Whether a chain can stand on every device, on those to come as well, and is shown by who reads rules here.
    fn covers_every_device(&self) -> bool {
        false
    }

    /// Whether a table of ours stands.
    fn stands(&self) -> Result<bool, FirewallError>;

    /// Our tables as `nft -j list` shows them, in one listing. None if there is none.
    fn list(&self) -> Result<Option<Listing>, FirewallError>;
}

#[derive(Debug, thiserror::Error)]
pub enum FirewallError {
    #[error("nft is not installed (looked in {}); install the package nftables", looked_in.join(", "))]
    NoNft { looked_in: Vec<&'static str> },
    #[error("cannot start {}", path.display())]
    Spawn {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{0}")]
    Unavailable(String),
    #[error("the kernel refused {about}")]
    Kernel {
        about: String,
        #[source]
        source: io::Error,
    },
    #[error("the kernel did not say what became of the rules")]
    Silent,
    #[error("nft refused ({status}): {stderr}")]
    Refused { status: ExitStatus, stderr: String },
    #[error("nft did not end within {0:?} and was killed")]
    TimedOut(Duration),
    #[error("cannot speak with nft")]
    Io(#[source] io::Error),
    #[error("cannot write the rules as JSON")]
    Encode(#[source] serde_json::Error),
    #[error("nft's listing cannot be read")]
    Decode(#[source] serde_json::Error),
    #[error("the table is still there after its deletion")]
    StillThere,
}
