//! The real way: a published event, `portcullis serve`, a real agent; and its stages as the events tell them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use async_nats::Subscriber;
use chrono::Utc;
use futures_util::StreamExt;
use portcullis_schemas::envelope::{self, Event};
use portcullis_schemas::events::{Action, Order, Payload, Posture, State};
use portcullis_schemas::{Stream, Timestamp};
use portcullis_tests::bus::{Bus, Found, ask, by_id, ransomware};
use portcullis_tests::world::World;

use crate::figures::Times;
use crate::refused::{Layer, Refusals};
use crate::series::Series;

pub struct Portcullis {
    refusals: Refusals,
    states: Subscriber,
    turns: Vec<Turn>,
}

/// From the publish until the first layer is in force, and until both are.
#[derive(Clone, Copy, Debug)]
pub struct Change {
    pub inet: Duration,
    pub in_force: Duration,
}

/// One change, by the bench's own clock.
struct Turn {
    posture: Posture,
    began: Timestamp,
    took: Duration,
}

impl Portcullis {
    pub async fn new(world: &World) -> anyhow::Result<Self> {
        let states = world.bus.client.subscribe(world.bus.prefix.of(Stream::States, "h1")).await?;
        world.bus.client.flush().await?;
        Ok(Self { refusals: Refusals::of(&world.lab().host(1).netns)?, states, turns: Vec::new() })
    }

    pub async fn isolate(&mut self, bus: &Bus) -> anyhow::Result<Change> {
        let detection = ransomware(by_id("h1"));
        self.once(Posture::Isolated, bus.detect("siem", detection)).await
    }

    pub async fn release(&mut self, bus: &Bus) -> anyhow::Result<Change> {
        let request = ask(Action::Release, "h1", "alice")?;
        self.once(Posture::Open, bus.request("alice", request)).await
    }

    /// An order that the agent has from the broker alone: nothing decides, nothing is stored.
    pub async fn hear(&mut self, bus: &Bus, order: &Event<Order>) -> anyhow::Result<Change> {
        let body = envelope::encode(order)?.into();
        let publish = async {
            bus.client.publish(bus.prefix.live(&order.data.host), body).await?;
            bus.client.flush().await?;
            Ok(String::new())
        };
        self.once(order.data.posture, publish).await
    }

    async fn once(&mut self, posture: Posture, publish: impl Future<Output = anyhow::Result<String>>) -> anyhow::Result<Change> {
        // They open together.
        if posture == Posture::Isolated {
            self.refusals.begin(Layer::Inet, posture)?;
        }
        self.refusals.begin(Layer::Netdev, posture)?;
        let (began, start) = (Utc::now(), Instant::now());
        publish.await?;
        let inet = self.refusals.met().await?;
        let took = if posture == Posture::Isolated { self.refusals.met().await? } else { inet };
        let (inet, took) = (inet - start, took - start);
        self.turns.push(Turn { posture, began, took });
        loop {
            let said = tokio::time::timeout(Duration::from_secs(10), self.states.next()).await?.context("no states")?;
            let state = envelope::decode::<State>(std::iter::empty(), &said.payload)?.data;
            ensure!(state.error.is_none(), "the agent says: {:?}", state.error);
            if state.posture == posture {
                return Ok(Change { inet, in_force: took });
            }
        }
    }

    /// The stages of all changes, the first `warm_up` left out.
    pub async fn stages(&self, bus: &Bus, warm_up: usize) -> anyhow::Result<Vec<Times>> {
        let inputs = stored(bus, Stream::Detections).await?.into_iter().chain(stored(bus, Stream::Requests).await?);
        let inputs: BTreeMap<Timestamp, ()> = inputs.map(|at| (at, ())).collect();
        let orders = by_generation(bus.orders("h1").await?, |order: &Order| order.generation);
        let states = by_generation(bus.states("h1").await?, |state: &State| state.generation);
        let names = ["input stored", "order stored", "rules in force", "enforced_at of the agent", "state stored"];
        let mut times: [[Series; 2]; 5] = Default::default();
        for (turn, generation) in self.turns.iter().zip(1u64..).skip(warm_up) {
            let input = inputs.range(turn.began..).next().context("an input")?.0;
            let order = orders.get(&generation).with_context(|| format!("order {generation}"))?;
            let state = states.get(&generation).with_context(|| format!("the state of {generation}"))?;
            ensure!(order.event.data.posture == turn.posture && state.event.data.posture == turn.posture, "postures differ");
            let since = |at: Timestamp| (at - turn.began).as_seconds_f64() * 1000.0;
            let in_force = turn.took.as_secs_f64() * 1000.0;
            let all = [since(*input), since(order.at), in_force, since(state.event.data.enforced_at), since(state.at)];
            for (series, value) in times.iter_mut().zip(all) {
                series[usize::from(turn.posture == Posture::Open)].add_ms(value);
            }
        }
        let stages = names.into_iter().zip(times);
        Ok(stages
            .map(|(name, [isolate, release])| Times { name, isolate: isolate.summary(), release: release.summary() })
            .collect())
    }
}

async fn stored(bus: &Bus, stream: Stream) -> anyhow::Result<Vec<Timestamp>> {
    let messages = bus.raw(stream, &bus.prefix.all(stream)).await?;
    messages.iter().map(|message| Ok(message.info().map_err(|error| anyhow::anyhow!("{error}"))?.published)).collect()
}

/// The first of each.
fn by_generation<T: Payload>(found: Vec<Found<T>>, generation: impl Fn(&T) -> u64) -> BTreeMap<u64, Found<T>> {
    found.into_iter().rev().map(|found| (generation(&found.event.data), found)).collect()
}
