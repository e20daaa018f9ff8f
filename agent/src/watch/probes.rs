//! Active checks of an isolation: what should be shut is tried, and what should pass, as an ordinary program of this host would.
//!
//! The rules know a program by the user of its sockets, which is the user that the thread had when it made them (`meta skuid`: the credentials
//! of the socket's file). So each round has a thread of its own, which is `nobody` from its first step where the agent may make it so. An agent
//! of its own user may not, and keeps no right for it: it tries as itself, whom the rules treat as everybody else but at the brokers' addresses,
//! and leaves those out.

use std::io;
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use anyhow::{bail, ensure};
use futures_util::future::join_all;
use portcullis_agent_core::gate::plain;
use portcullis_schemas::events::Probe;
use rustix::io::Errno;
use rustix::thread::{CapabilitySet, Gid, Uid, capabilities, set_thread_groups, set_thread_res_gid, set_thread_res_uid};
use tokio::net::TcpStream;
use tokio::time::timeout;

const OPEN: &str = "open";
const CLOSED: &str = "closed";
/// An answer from any place on earth; also the longest time that a round takes.
const PATIENCE: Duration = Duration::from_secs(2);
const MOST: usize = 32;
/// The user and group without rights, by the kernel's own choice (Documentation/admin-guide/sysctl/fs.rst, overflowuid).
const NOBODY: u32 = 65534;

/// What is tried, over TCP. Something must listen there, or it is closed on an open host as well.
#[derive(Clone, Debug, Default)]
pub struct Probes {
    targets: Vec<Target>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Target {
    address: SocketAddr,
    expected: &'static str,
}

impl Probes {
    pub fn new(closed: &[SocketAddr], open: &[SocketAddr]) -> anyhow::Result<Self> {
        let [closed, open] = [closed, open].map(|all| all.iter().map(|address| plain(*address)).collect::<Vec<_>>());
        ensure!(closed.len() + open.len() <= MOST, "at most {MOST} addresses can be probed");
        if let Some(both) = closed.iter().find(|address| open.contains(address)) {
            bail!("{both} cannot be open and closed at once; name it in --probe-open or in --probe-closed");
        }
        let all = closed.iter().map(|address| (address, CLOSED)).chain(open.iter().map(|address| (address, OPEN)));
        Ok(Self { targets: all.map(|(address, expected)| Target { address: *address, expected }).collect() })
    }

    pub fn is_empty(&self) -> bool {
        self.targets.is_empty()
    }

    /// Tries all at once, on a thread of its own, and calls `done` there within some two seconds. `control` are the brokers' addresses.
    pub fn start(&self, control: &[SocketAddr], done: impl FnOnce(Vec<Probe>) + Send + 'static) -> io::Result<()> {
        let (targets, control) = (self.targets.clone(), control.to_vec());
        let work = move || {
            let own = !become_nobody();
            let told = |target: &Target| !(own && control.contains(&target.address));
            let targets: Vec<_> = targets.into_iter().filter(told).collect();
            done(round(&targets));
        };
        thread::Builder::new().name("probes".to_owned()).spawn(work).map(drop)
    }
}

/// Those that did not find what they should, for people.
pub fn failures(probes: &[Probe]) -> impl Iterator<Item = String> {
    let failed = probes.iter().filter(|probe| probe.expected != probe.found);
    failed.map(|probe| format!("the probe of {} found it {}, and it should be {}", probe.target, probe.found, probe.expected))
}

/// Makes the calling thread a program of nobody's, for good; false where that is not allowed.
fn become_nobody() -> bool {
    let needed = CapabilitySet::SETUID | CapabilitySet::SETGID;
    let (uid, gid) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
    capabilities(None).is_ok_and(|sets| sets.effective.contains(needed))
        && set_thread_groups(&[]).is_ok()
        && set_thread_res_gid(gid, gid, gid).is_ok()
        && set_thread_res_uid(uid, uid, uid).is_ok()
}

fn round(targets: &[Target]) -> Vec<Probe> {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return targets.iter().map(|target| target.found(&unknown(&error))).collect(),
    };
    runtime.block_on(join_all(targets.iter().map(|target| async { target.found(&connect(target.address).await) })))
}

async fn connect(address: SocketAddr) -> String {
    match timeout(PATIENCE, TcpStream::connect(address)).await {
        Ok(Ok(_)) => OPEN.to_owned(),
        Ok(Err(error)) if is_own(&error) => unknown(&error),
        Ok(Err(_)) | Err(_) => CLOSED.to_owned(),
    }
}

/// Whether this host lacks what it takes to try.
fn is_own(error: &io::Error) -> bool {
    let own = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::AFNOSUPPORT, Errno::ADDRNOTAVAIL];
    Errno::from_io_error(error).is_some_and(|errno| own.contains(&errno))
}

fn unknown(error: &io::Error) -> String {
    format!("unknown ({error})")
}

impl Target {
    fn found(&self, found: &str) -> Probe {
        Probe { target: format!("tcp {}", self.address), expected: self.expected.to_owned(), found: found.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn what_answers_is_open_and_what_refuses_is_closed() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let open = listener.local_addr().unwrap();
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let (sender, found) = mpsc::channel();
        let probes = Probes::new(&[closed], &[open]).unwrap();
        probes.start(&[], move |found| sender.send(found).unwrap()).unwrap();
        let found = found.recv().unwrap();
        assert_eq!(found.iter().map(|probe| probe.found.as_str()).collect::<Vec<_>>(), [CLOSED, OPEN]);
        assert_eq!(failures(&found).count(), 0);
        let wrong = Target { address: open, expected: CLOSED }.found(OPEN);
        assert_eq!(failures(&[wrong]).next().unwrap(), format!("the probe of tcp {open} found it open, and it should be closed"));
    }

    #[test]
    fn too_many_and_contradicting_probes_are_refused() {
        let address = |port| SocketAddr::from(([10, 0, 0, 1], port));
        let many: Vec<_> = (0..33).map(address).collect();
        assert!(Probes::new(&many, &[]).is_err() && Probes::new(&many[..32], &[]).is_ok());
        assert!(Probes::new(&[address(1)], &[address(1)]).is_err());
    }
}
