//! Stand-by: asks to lead whenever nobody holds the leader's key. The machine and its logs decide whether that is right.

use std::time::Duration;

use portcullis_bus::LeaderKey;
use tokio::sync::{mpsc, watch};

/// How often a follower looks at the key.
const LOOK: Duration = Duration::from_millis(200);

/// What this process is, as far as it knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It has read the logs.
    Starting,
    /// Another process leads, and this one follows its logs.
    Standby,
    /// It leads, and takes inputs.
    Leading,
}

/// Sends one word each time that this process may try to lead, for as long as the engine does.
pub async fn watch(mut key: LeaderKey, role: watch::Sender<Role>, to: mpsc::Sender<()>) {
    let mut changes = role.subscribe();
    while !to.is_closed() {
        if *changes.borrow_and_update() == Role::Leading {
            if changes.changed().await.is_err() {
                return;
            }
            continue;
        }
        let mut pause = LOOK;
        match key.free_in().await {
            Ok(Duration::ZERO) => match key.claim().await {
                // A word that waits is as good as another.
                Ok(true) => drop(to.try_send(())),
                Ok(false) => {}
                Err(error) => tracing::debug!(error = format!("{error:#}"), "leader key not claimed"),
            },
            Ok(left) => {
                role.send_if_modified(|role| *role == Role::Starting && std::mem::replace(role, Role::Standby) == Role::Starting);
                pause = pause.min(left);
            }
            Err(error) => tracing::debug!(error = format!("{error:#}"), "leader key not read"),
        }
        tokio::time::sleep(pause).await;
    }
}
