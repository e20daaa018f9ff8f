//! The way from the lab's hosts to a broker outside of the lab, and how to shut it.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use crate::error::{Result, Tried};
use crate::keeper::KeeperHandle;
use crate::netns::{Netns, in_netns};
use crate::topology::{BROKER_PORT, HUB_V4, HUB_V6};

#[derive(Debug)]
pub(crate) struct Door {
    orders: mpsc::UnboundedSender<Order>,
}

struct Order {
    cut: bool,
    done: oneshot::Sender<io::Result<()>>,
}

impl Door {
    pub(crate) fn open(hub: Netns, broker: SocketAddr, keeper: &KeeperHandle) -> Result<Self> {
        let (orders, inbox) = mpsc::unbounded_channel();
        let listeners = listen(&hub).tried(|| "open the broker's door in the hub".to_owned())?;
        let keep = move || -> io::Result<()> {
            let listeners = adopt(listeners)?;
            tokio::spawn(keep(hub, broker, listeners, inbox));
            Ok(())
        };
        keeper.run(keep).and_then(|kept| kept).tried(|| "serve the broker's door".to_owned())?;
        Ok(Self { orders })
    }

    /// When this returns, standing connections are closed and new ones refused, or new ones are taken again.
    pub(crate) async fn cut(&self, cut: bool) -> Result<()> {
        let (done, answer) = oneshot::channel();
        let ended = |_| io::Error::new(io::ErrorKind::BrokenPipe, "the lab has been stopped");
        let ordered = self.orders.send(Order { cut, done }).map_err(|_| ended(()));
        let answered = match ordered {
            Ok(()) => answer.await.map_err(|_| ended(())).and_then(|answer| answer),
            Err(error) => Err(error),
        };
        answered.tried(|| format!("{} the broker's door", if cut { "shut" } else { "open" }))
    }
}

type Listeners = [tokio::net::TcpListener; 2];

fn listen(hub: &Netns) -> io::Result<[TcpListener; 2]> {
    in_netns(hub, || {
        let v4 = TcpListener::bind((HUB_V4, BROKER_PORT))?;
        let v6 = TcpListener::bind((HUB_V6, BROKER_PORT))?;
        v4.set_nonblocking(true)?;
        v6.set_nonblocking(true)?;
        Ok([v4, v6])
    })?
}

fn adopt([v4, v6]: [TcpListener; 2]) -> io::Result<Listeners> {
    Ok([tokio::net::TcpListener::from_std(v4)?, tokio::net::TcpListener::from_std(v6)?])
}

async fn keep(hub: Netns, broker: SocketAddr, listeners: Listeners, mut orders: mpsc::UnboundedReceiver<Order>) {
    let mut listeners = Some(listeners);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            order = orders.recv() => {
                let Some(Order { cut, done }) = order else { return };
                let carried_out = if cut {
                    let closed = listeners.take().map_or(Ok(()), close);
                    connections.shutdown().await;
                    closed
                } else if listeners.is_some() {
                    Ok(())
                } else {
                    listen(&hub).and_then(adopt).map(|opened| listeners = Some(opened))
                };
                let _nobody_waits = done.send(carried_out);
            }
            accepted = accept(listeners.as_ref()) => match accepted {
                Ok(client) => {
                    connections.spawn(forward(client, broker));
                }
                Err(error) => {
                    tracing::debug!(%error, "connection to the broker not accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Dropping them is not enough: a process that is being started holds them until its exec, and they would take connections meanwhile.
fn close(listeners: Listeners) -> io::Result<()> {
    for listener in &listeners {
        rustix::net::shutdown(listener, rustix::net::Shutdown::Both)?;
    }
    Ok(())
}

async fn accept(listeners: Option<&Listeners>) -> io::Result<TcpStream> {
    let Some([v4, v6]) = listeners else {
        return std::future::pending().await;
    };
    let (client, _) = tokio::select! {
        accepted = v4.accept() => accepted,
        accepted = v6.accept() => accepted,
    }?;
    Ok(client)
}

/// A broker that cannot be reached closes the client's connection, as one that just died would.
async fn forward(mut client: TcpStream, broker: SocketAddr) {
    let carried = async {
        let mut server = TcpStream::connect(broker).await?;
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        tokio::io::copy_bidirectional(&mut client, &mut server).await
    };
    if let Err(error) = carried.await {
        tracing::debug!(%error, %broker, "connection to the broker ended");
    }
}
