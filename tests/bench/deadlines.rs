//! The scheduler: orders that stood before the orchestrator started, and how late each deadline is said.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context;
use chrono::{TimeDelta, Utc};
use portcullis_schemas::events::{Hold, InputKind, InputRef, LocalRelease, Order, Origin, Posture, ReleaseDue, WhenUnreachable};
use portcullis_schemas::{HostId, Stream, Timestamp, envelope, ids};
use portcullis_tests::bus::{Bus, event};
use portcullis_tests::until::until;
use portcullis_tests::world::{POLICY, World};

use crate::figures::Lateness;
use crate::series::Series;

const HOSTS: u32 = 200;
/// From the writing of the orders; by then the orchestrator has started.
const TOGETHER: TimeDelta = TimeDelta::seconds(5);
const SPREAD: (TimeDelta, TimeDelta) = (TimeDelta::seconds(7), TimeDelta::milliseconds(40));

pub async fn measure() -> anyhow::Result<Vec<Lateness>> {
    let mut world = World::bare().await?;
    world.is_not_replayed("a bench measures, and stores by the ten thousand");
    std::fs::write(world.policy(), POLICY)?;
    // Makes the streams.
    world.orchestrate(&[]).await?;
    world.orchestrator().process.stop().await?;
    let now = Utc::now();
    let together = (1..=HOSTS).map(|n| (format!("same-{n}"), now + TOGETHER));
    let spread = (1..=HOSTS).map(|n| (format!("spread-{n}"), now + SPREAD.0 + SPREAD.1 * i32::try_from(n).unwrap_or(0)));
    let mut prev = "0".repeat(64);
    let mut last = now;
    for (host, due) in together.chain(spread) {
        let body = envelope::encode(&event(format!("bench-{host}"), "/bench", order(&host, now, due, prev)?))?;
        prev = ids::sha256(&body);
        world.bus.publish_raw(world.bus.prefix.of(Stream::Orders, &host), body).await?;
        last = last.max(due);
    }
    world.orchestrate(&[]).await?;
    tokio::time::sleep((last - Utc::now()).to_std().unwrap_or_default()).await;
    let opened = until("every deadline is answered", Duration::from_secs(30), || async {
        let mut orders = world.bus.context.get_stream(world.bus.prefix.stream(Stream::Orders)).await?;
        Ok((orders.info().await?.state.messages >= u64::from(4 * HOSTS)).then_some(()))
    });
    opened.await?;
    let said = world.bus.all::<ReleaseDue>(Stream::Releases, &world.bus.prefix.all(Stream::Releases)).await?;
    let due: BTreeMap<String, Timestamp> =
        said.iter().map(|found| (found.event.data.host.to_string(), found.event.data.due_at)).collect();
    let opened = opened_at(&world.bus).await?;
    ["same", "spread"]
        .into_iter()
        .zip(["at one moment", "spread over 8 s"])
        .map(|(kind, name)| {
            let (mut release_due, mut order) = (Series::default(), Series::default());
            let of_kind = |host: &str| host.starts_with(kind);
            for found in said.iter().filter(|found| of_kind(found.event.data.host.as_str())) {
                release_due.add_ms((found.at - found.event.data.due_at).as_seconds_f64() * 1000.0);
            }
            for (host, due) in due.iter().filter(|(host, _)| of_kind(host)) {
                let at = opened.get(host).with_context(|| format!("{host} was not opened"))?;
                order.add_ms((*at - *due).as_seconds_f64() * 1000.0);
            }
            Ok(Lateness { name, release_due: release_due.summary(), order: order.summary() })
        })
        .collect()
}

async fn opened_at(bus: &Bus) -> anyhow::Result<BTreeMap<String, Timestamp>> {
    let orders = bus.orders("*").await?;
    let open = orders.into_iter().filter(|found| found.event.data.posture == Posture::Open);
    Ok(open.map(|found| (found.event.data.host.to_string(), found.at)).collect())
}

fn order(host: &str, now: Timestamp, due: Timestamp, prev: String) -> anyhow::Result<Order> {
    let cause =
        InputRef { kind: InputKind::Request, token: "alice".into(), source: "/bench".into(), id: format!("isolate-{host}") };
    let hold = Hold {
        rule: None,
        origin: Origin::Manual,
        causes: vec![cause.clone()],
        more: None,
        generation: 1,
        since: now,
        until: Some(due),
        reason: None,
        ticket: None,
        incident: None,
    };
    Ok(Order {
        host: HostId::new(host)?,
        generation: 1,
        posture: Posture::Isolated,
        holds: vec![hold],
        release_at: Some(due),
        exclusions: Vec::new(),
        when_unreachable: WhenUnreachable::Stay,
        local_release: LocalRelease::Root,
        incident: cause.id.clone(),
        ticket: None,
        issued_at: now,
        issued_by: cause,
        reason: "a bench".into(),
        expires_at: None,
        min_agent: None,
        settled: Vec::new(),
        settled_floor: None,
        released_at: None,
        last_release: None,
        last_isolation: None,
        asked_at_deadline: false,
        prev,
    })
}
