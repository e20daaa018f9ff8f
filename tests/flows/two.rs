//! Two orchestrators, started by mistake, never contradict each other.

use std::collections::BTreeSet;

use anyhow::ensure;
use portcullis_schemas::events::{Action, Posture};
use portcullis_tests::bus::{ask, by_id, ransomware};
use portcullis_tests::standby::one_line;
use portcullis_tests::world::{POLICY, World};

#[tokio::test]
async fn two_orchestrators_write_one_log() -> anyhow::Result<()> {
    let world = World::start(3, Some(POLICY)).await?;
    let second = world.another(&[])?;
    second.ready().await?;
    let mut ids = Vec::new();
    for round in 0..10 {
        for host in ["h1", "h2", "h3"] {
            ids.push(world.bus.detect("siem", ransomware(by_id(host))).await?);
            if round % 3 == 2 {
                ids.push(world.bus.request("alice", ask(Action::Release, host, "alice")?).await?);
            }
        }
    }
    for host in ["h1", "h2", "h3"] {
        ids.push(world.bus.request("alice", ask(Action::Isolate, host, "alice")?).await?);
    }
    for id in &ids {
        world.bus.decision(id).await?;
    }
    // One line: generations rise by one, each order names the one before it, no input made two.
    let mut made_by = BTreeSet::new();
    for host in ["h1", "h2", "h3"] {
        let orders = world.bus.orders(host).await?;
        for (n, found) in orders.iter().enumerate() {
            let order = &found.event.data;
            ensure!(order.generation == n as u64 + 1, "{host}: generation {} at place {n}", order.generation);
            ensure!(made_by.insert(order.issued_by.clone()), "{host}: two orders by {:?}", order.issued_by);
        }
        let last = orders.last().map(|found| (found.event.data.generation, found.event.data.posture));
        ensure!(last.is_some_and(|(_, posture)| posture == Posture::Isolated), "{host}: {last:?}");
        world.bus.state(host, orders.len() as u64, Posture::Isolated).await?;
    }
    one_line(&world.bus).await?;
    let decisions = world.bus.decisions().await?;
    let answered: BTreeSet<&str> = decisions.iter().map(|found| found.event.data.input.id.as_str()).collect();
    ensure!(ids.iter().all(|id| answered.contains(id.as_str())));
    Ok(())
}
