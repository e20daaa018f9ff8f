//! Orders that pile up: only the newest of those that wait is carried out.

use std::time::Duration;

use anyhow::{Context, ensure};
use portcullis_schemas::Stream;
use portcullis_schemas::envelope::{self, CONTENT_TYPE, Event};
use portcullis_schemas::events::{Order, Posture, State, StateCause};
use portcullis_tests::until::until;
use portcullis_tests::world::{POLICY, World, said};

const ORDERS: u64 = 3_000;
/// Far more than a burst needs, and far fewer than there are orders.
const MOST_ENFORCED: usize = 60;

#[tokio::test]
async fn three_thousand_orders_at_once_are_a_few_enforcements_and_the_last_one_counts() -> anyhow::Result<()> {
    let mut world = World::start(1, Some(POLICY)).await?;
    said(&world.verb(&["isolate", "h1"])?, 0)?;
    said(&world.verb(&["release", "h1"])?, 0)?;
    world.is_not_replayed("its orders are the test's own, and more than are kept");
    // Its orders would be of another line.
    world.orchestrator().process.kill9()?;
    let orders = world.bus.orders("h1").await?;
    let last = |wanted| orders.iter().rev().find(|order| order.event.data.posture == wanted).context("an order");
    let templates = [&last(Posture::Isolated)?.event, &last(Posture::Open)?.event];
    let first = orders.last().context("an order")?.event.data.generation;
    let subject = world.bus.prefix.of(Stream::Orders, "h1");
    let before = states(&world).await?.len();
    let mut stored = Vec::new();
    for n in 1..=ORDERS {
        // The last one isolates.
        let template = templates[usize::from(n % 2 == 1)];
        let generation = first + n;
        let expires_at = template.data.expires_at.map(|at| at + chrono::TimeDelta::hours(1));
        let order = Order { generation, expires_at, ..template.data.clone() };
        let event = Event { id: format!("h1:{generation}"), data: order, ..template.clone() };
        let mut headers = async_nats::HeaderMap::new();
        headers.insert("Content-Type", CONTENT_TYPE);
        stored.push(world.bus.context.publish_with_headers(subject.clone(), headers, envelope::encode(&event)?.into()).await?);
    }
    for ack in stored {
        ack.await?;
    }
    let generation = first + ORDERS;
    let found = until("the last order is in force", Duration::from_secs(60), || async {
        let states = states(&world).await?;
        Ok(states.last().is_some_and(|state| state.generation == generation).then_some(states))
    })
    .await?;
    ensure!(world.enforced(1)? == Posture::Isolated);
    let enforced: Vec<u64> =
        found[before..].iter().filter(|state| state.cause == StateCause::Order).map(|state| state.generation).collect();
    println!("{ORDERS} orders at once: {} enforced, of generations {enforced:?}", enforced.len());
    ensure!(enforced.is_sorted(), "never backwards");
    ensure!(enforced.len() <= MOST_ENFORCED, "{} of {ORDERS} orders were carried out", enforced.len());
    ensure!(found[before..].iter().all(|state| state.error.is_none()), "a skipped order is no error");
    Ok(())
}

async fn states(world: &World) -> anyhow::Result<Vec<State>> {
    let subject = world.bus.prefix.of(Stream::States, "h1");
    Ok(world.bus.all::<State>(Stream::States, &subject).await?.into_iter().map(|found| found.event.data).collect())
}
