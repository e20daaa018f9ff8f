//! Several sites on one nats-server, each under a prefix of its own: none touches another.

use std::collections::BTreeSet;

use anyhow::ensure;
use futures_util::TryStreamExt;
use portcullis_dev::AgentConfig;
use portcullis_schemas::events::{Posture, Verdict};
use portcullis_schemas::{Prefix, Stream};
use portcullis_tests::bus::{Bus, by_id, ransomware};
use portcullis_tests::place::program;
use portcullis_tests::world::{POLICY, World, said};
use portcullis_tests::{http, replay};
use rustix::process::Signal;

#[tokio::test]
async fn two_sites_on_one_broker_do_not_touch_each_other() -> anyhow::Result<()> {
    let mut world = World::bare().await?;
    std::fs::write(world.policy(), POLICY)?;
    world.host_with(2, AgentConfig::new(program("portcullis-agent")?)).await?;
    let site = [("PORTCULLIS_PREFIX", "site-2")];
    world.lab().agent(2).stop().await?;
    world.lab().agent(2).start(&site)?;
    world.orchestrate(&[]).await?;
    let mut second = world.another(&site)?;
    second.ready().await?;
    let bus = Bus::connect_to(&world.nats.url(), Prefix::new("site-2")?).await?;
    world.bus.known(&["h1"]).await?;
    bus.known(&["h2"]).await?;
    for orchestrator in [&second, world.orchestrator()] {
        ensure!(orchestrator.readyz().await?.starts_with("ready"), "each site has its own leader");
    }
    let hosts = |prefix: &str| -> anyhow::Result<BTreeSet<String>> {
        let list = said(&world.verb(&["hosts", "--json", "--prefix", prefix])?, 0)?;
        let list: serde_json::Value = serde_json::from_str(&list)?;
        let hosts = list["hosts"].as_array().into_iter().flatten();
        Ok(hosts.filter_map(|host| host["host"].as_str().map(str::to_owned)).collect())
    };
    ensure!(hosts("portcullis")? == ["h1".to_owned()].into() && hosts("site-2")? == ["h2".to_owned()].into());

    // The second site has a host with the id of one of the first.
    bus.know("h1").await?;
    let id = bus.detect("siem", ransomware(by_id("h1"))).await?;
    ensure!(bus.decision(&id).await?.verdict == Verdict::Isolate);
    said(&world.verb(&["isolate", "h2", "--prefix", "site-2"])?, 0)?;
    said(&world.verb(&["isolate", "h2"])?, 3)?;
    ensure!((world.enforced(1)?, world.enforced(2)?) == (Posture::Open, Posture::Isolated));
    ensure!(world.bus.all_orders().await?.is_empty() && world.bus.decisions().await?.is_empty());
    said(&world.verb(&["isolate", "h1"])?, 0)?;
    said(&world.verb(&["release", "h1"])?, 0)?;
    ensure!((world.enforced(1)?, world.enforced(2)?) == (Posture::Open, Posture::Isolated));

    // Each goes on without the other's orchestrator.
    world.orchestrator().process.signal(Signal::STOP)?;
    said(&world.verb(&["release", "h2", "--prefix", "site-2"])?, 0)?;
    world.orchestrator().process.signal(Signal::CONT)?;
    second.process.stop().await?;
    said(&world.verb(&["isolate", "h1"])?, 0)?;

    let names: BTreeSet<String> = world.bus.context.stream_names().try_collect().await?;
    let of = |prefix: &Prefix| {
        let bucket = format!("KV_{}", prefix.bucket());
        Stream::ALL.map(|stream| prefix.stream(stream)).into_iter().chain([bucket]).collect::<BTreeSet<String>>()
    };
    ensure!(names == &of(&world.bus.prefix) | &of(&bus.prefix), "{names:?}");
    let metrics = http::get(world.orchestrator().http, "/metrics").await?.1;
    ensure!(
        !metrics.contains("portcullis_stray_messages_total{") && !metrics.contains("portcullis_stray_messages_total "),
        "{metrics}"
    );
    ensure!(metrics.contains("portcullis_foreign_messages_total 0"), "{metrics}");
    replay::check(world.servers_mut(), &bus.prefix)?;
    Ok(())
}
