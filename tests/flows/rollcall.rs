//! Agents answer when the roll is called.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, ensure};
use futures_util::StreamExt;
use portcullis_schemas::envelope::{self, CONTENT_TYPE};
use portcullis_schemas::events::{Hello, Rollcall};
use portcullis_schemas::time::Span;
use portcullis_tests::bus::event;
use portcullis_tests::world::World;
use tokio::time::{Instant, timeout};

#[tokio::test]
async fn hosts_answer_a_roll_call_and_many_calls_make_one_hello_a_second() -> anyhow::Result<()> {
    let world = World::start(2, None).await?;
    let client = &world.bus.client;
    let mut hellos = client.subscribe(world.bus.prefix.all_hello()).await?;
    client.flush().await?;
    let call = |after: u64| envelope::encode(&event(format!("call-{after}"), "/test", Rollcall { after: Span::seconds(after) }));
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("Content-Type", CONTENT_TYPE);
    let start = Instant::now();
    client.publish_with_headers(world.bus.prefix.rollcall(), headers.clone(), call(3)?.into()).await?;
    let mut hosts = BTreeSet::new();
    while hosts.len() < 2 {
        let hello = timeout(Duration::from_secs(6), hellos.next()).await.context("no answer")?.context("a hello")?;
        hosts.insert(envelope::decode::<Hello>(std::iter::empty(), &hello.payload)?.data.host.to_string());
    }
    ensure!(hosts.iter().eq(["h1", "h2"]), "{hosts:?}");
    println!("both answered in {:?}", start.elapsed());

    let start = Instant::now();
    for _ in 0..20_000 {
        client.publish_with_headers(world.bus.prefix.rollcall(), headers.clone(), call(0)?.into()).await?;
    }
    client.publish(world.bus.prefix.rollcall(), "no event".into()).await?;
    client.flush().await?;
    let mut answers = 0usize;
    while let Ok(Some(_)) = timeout(Duration::from_secs(4), hellos.next()).await {
        answers += 1;
    }
    let elapsed = start.elapsed();
    println!("{answers} hellos of 2 hosts in {elapsed:?} for 20,001 calls");
    ensure!(answers >= 2 && answers <= 2 * (elapsed.as_secs() as usize + 1), "{answers} hellos in {elapsed:?}");
    Ok(())
}
