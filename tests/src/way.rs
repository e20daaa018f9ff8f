//! A way to the broker that can be cut: connections stay as they are, and nothing gets through, in neither direction.

use std::io;
use std::net::SocketAddr;
use std::thread::{self, JoinHandle};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;

/// Gone with its connections when it is dropped. On a thread of its own: tests wait for programs, which wait for it.
#[derive(Debug)]
pub struct Way {
    port: u16,
    open: watch::Sender<bool>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Way {
    /// To a port on 127.0.0.1.
    pub fn to(port: u16) -> anyhow::Result<Self> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let (to, at) = (SocketAddr::from(([127, 0, 0, 1], port)), listener.local_addr()?.port());
        let (open, is_open) = watch::channel(true);
        let (stop, stopped) = oneshot::channel();
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener)?;
                tokio::select! {
                    _ = stopped => Ok(()),
                    result = serve(listener, to, is_open) => result,
                }
            })
        });
        Ok(Self { port: at, open, stop: Some(stop), thread: Some(thread) })
    }

    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    pub fn cut(&self) {
        self.open.send_replace(false);
    }

    /// What was sent meanwhile arrives now.
    pub fn heal(&self) {
        self.open.send_replace(true);
    }
}

async fn serve(listener: TcpListener, to: SocketAddr, open: watch::Receiver<bool>) -> io::Result<()> {
    let mut connections = JoinSet::new();
    loop {
        let (near, _) = listener.accept().await?;
        let mut open = open.clone();
        connections.spawn(async move {
            let _ = open.wait_for(|open| *open).await;
            let Ok(far) = TcpStream::connect(to).await else { return };
            let ((from_near, to_near), (from_far, to_far)) = (near.into_split(), far.into_split());
            // The end of one direction ends the other: so does a client that goes, or a server.
            tokio::select! {
                _ = pass(from_near, to_far, open.clone()) => {}
                _ = pass(from_far, to_near, open) => {}
            }
        });
    }
}

async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut open: watch::Receiver<bool>,
) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = from.read(&mut buffer).await?;
        if open.wait_for(|open| *open).await.is_err() || read == 0 {
            return Ok(());
        }
        to.write_all(&buffer[..read]).await?;
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        drop(self.stop.take());
        let _ = self.thread.take().map(JoinHandle::join);
    }
}
