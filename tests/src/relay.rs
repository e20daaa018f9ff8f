//! A broker at another address: what is connected to in a namespace is handed on to the real one.

use std::io;
use std::net::SocketAddr;
use std::thread::{self, JoinHandle};

use anyhow::Context;
use portcullis_lab::Netns;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

/// Gone with its connections when it is dropped. On a thread of its own: tests wait for programs, which wait for it.
#[derive(Debug)]
pub struct Relay {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Relay {
    pub fn open(netns: &Netns, at: SocketAddr, to: SocketAddr) -> anyhow::Result<Self> {
        let listener = netns.tcp_listener(at).with_context(|| format!("cannot listen at {at}"))?;
        listener.set_nonblocking(true)?;
        let (stop, stopped) = oneshot::channel();
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener)?;
                tokio::select! {
                    _ = stopped => Ok(()),
                    result = relay(listener, to) => result,
                }
            })
        });
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

async fn relay(listener: TcpListener, to: SocketAddr) -> io::Result<()> {
    let mut connections = JoinSet::new();
    loop {
        let (mut near, _) = listener.accept().await?;
        connections.spawn(async move {
            if let Ok(mut far) = TcpStream::connect(to).await {
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
