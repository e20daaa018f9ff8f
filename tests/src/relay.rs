//! A broker at another address: what is connected to in a namespace is handed on to the real one.

use std::io;
use std::net::SocketAddr;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::Context;
use portcullis_dev::Netns;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

const PATIENCE: Duration = Duration::from_secs(5);

/// Gone with its connections when it is dropped. On a thread of its own: tests wait for programs, which wait for it.
#[derive(Debug)]
pub struct Relay {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Relay {
    pub fn open(netns: &Netns, at: SocketAddr, to: SocketAddr) -> anyhow::Result<Self> {
        Self::start(netns, at, None, to)
    }

    /// One that goes on from within the same namespace.
    pub fn within(netns: &Netns, at: SocketAddr, to: SocketAddr) -> anyhow::Result<Self> {
        Self::start(netns, at, Some(netns.clone()), to)
    }

    fn start(netns: &Netns, at: SocketAddr, via: Option<Netns>, to: SocketAddr) -> anyhow::Result<Self> {
        let listener = netns.tcp_listener(at).with_context(|| format!("cannot listen at {at}"))?;
        listener.set_nonblocking(true)?;
        let (stop, stopped) = oneshot::channel();
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener)?;
                tokio::select! {
                    _ = stopped => Ok(()),
                    result = relay(listener, via, to) => result,
                }
            })
        });
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

async fn relay(listener: TcpListener, via: Option<Netns>, to: SocketAddr) -> io::Result<()> {
    let mut connections = JoinSet::new();
    loop {
        let (mut near, _) = listener.accept().await?;
        let via = via.clone();
        connections.spawn(async move {
            let far = match via {
                Some(netns) => netns.connect(to, PATIENCE).await,
                None => TcpStream::connect(to).await,
            };
            if let Ok(mut far) = far {
                let _ = copy_bidirectional(&mut near, &mut far).await;
            }
        });
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        drop(self.stop.take());
        let _ = self.thread.take().map(JoinHandle::join);
    }
}
