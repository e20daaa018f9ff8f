//! Inputs that wait: stored before the orchestrator starts.

use portcullis_schemas::events::{Detection, Inventory};
use portcullis_schemas::{Stream, envelope};
use portcullis_tests::bus::{Bus, event, known};
use portcullis_tests::world::{POLICY, World};

/// Messages that are published before their acknowledgements are waited for.
const AT_ONCE: usize = 512;

/// A broker with all streams and so many known hosts, and no orchestrator.
pub async fn ready(hosts: usize) -> anyhow::Result<World> {
    let mut world = World::bare().await?;
    world.is_not_replayed("a bench measures, and stores by the ten thousand");
    std::fs::write(world.policy(), POLICY)?;
    // Makes the streams.
    world.orchestrate(&[]).await?;
    world.orchestrator().process.stop().await?;
    world.orchestrator = None;
    let mut all = Vec::new();
    for n in 1..=hosts {
        let inventory = Inventory {
            hello: known(&format!("h{n}"))?,
            claims: Vec::new(),
            silent_since: None,
            roles_since: Default::default(),
            operator: None,
        };
        let body = envelope::encode(&event(format!("v{n}"), "/bench", inventory))?;
        all.push((world.bus.prefix.of(Stream::Inventory, &format!("h{n}")), body));
    }
    store(&world.bus, all).await?;
    Ok(world)
}

/// Stores so many detections, each with its source.
pub async fn store_detections(bus: &Bus, count: usize, detection: impl Fn(usize) -> (String, Detection)) -> anyhow::Result<()> {
    for begin in (0..count).step_by(AT_ONCE) {
        let mut some = Vec::new();
        for n in begin..count.min(begin + AT_ONCE) {
            let (source, detection) = detection(n);
            let body = envelope::encode(&event(format!("d{n}"), "/bench", detection))?;
            some.push((bus.prefix.of(Stream::Detections, &source), body));
        }
        store(bus, some).await?;
    }
    Ok(())
}

async fn store(bus: &Bus, messages: Vec<(String, Vec<u8>)>) -> anyhow::Result<()> {
    let mut acks = Vec::new();
    for (subject, body) in messages {
        acks.push(bus.context.publish(subject, body.into()).await?);
        if acks.len() == AT_ONCE {
            for ack in acks.drain(..) {
                ack.await?;
            }
        }
    }
    for ack in acks {
        ack.await?;
    }
    Ok(())
}
