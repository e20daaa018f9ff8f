//! Several orchestrators of one site, inputs that come all the while, and what must hold of the logs afterwards.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, ensure};
use async_nats::jetstream;
use portcullis_schemas::envelope::{self, Event};
use portcullis_schemas::events::{Action, Decision, InputKind, Order, Page, Payload, PolicyActivated, Seen, Term};
use portcullis_schemas::subjects::{PAGES, POLICY, TERM};
use portcullis_schemas::{Stream, Timestamp, ids};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::bus::{Bus, ask, by_id, detection_event, event, ransomware};
use crate::place::unique;
use crate::until::until;
use crate::way::Way;
use crate::world::{Orchestrator, World};

/// The hosts that inputs are about. They have no agents.
pub const HOSTS: usize = 40;
/// Between two inputs.
const EVERY: Duration = Duration::from_millis(10);
/// Of so many inputs one is an operator's.
const REQUESTS: usize = 8;
const SOURCES: [&str; 3] = ["siem", "edr", "ids"];
/// For one publish to be acknowledged, before it is sent again.
const ACK: Duration = Duration::from_secs(2);

pub struct Standby {
    pub all: Vec<Member>,
}

pub struct Member {
    pub orchestrator: Orchestrator,
    /// To each server.
    pub ways: Vec<Way>,
}

impl Standby {
    /// Starts so many, one of which leads, and makes hosts known.
    pub async fn start(world: &World, orchestrators: usize) -> anyhow::Result<Self> {
        let mut all = Vec::new();
        for _ in 0..orchestrators {
            let member = Member::start(world)?;
            // One after the other: streams are made once.
            member.orchestrator.ready().await?;
            all.push(member);
        }
        for n in 0..HOSTS {
            world.bus.know(&format!("h{n}")).await?;
        }
        Ok(Self { all })
    }

    /// Which one leads, by its own word; none of `without`, which may not know better.
    pub async fn leader(&self, without: &[usize]) -> anyhow::Result<usize> {
        until("one orchestrator leads", Duration::from_secs(60), || async {
            let mut leaders = Vec::new();
            for (n, member) in self.all.iter().enumerate().filter(|(n, _)| !without.contains(n)) {
                if member.orchestrator.readyz().await.is_ok_and(|said| said.starts_with("ready")) {
                    leaders.push(n);
                }
            }
            Ok((leaders.len() == 1).then(|| leaders[0]))
        })
        .await
    }

    /// Waits until this one says that it follows.
    pub async fn follows(&self, n: usize) -> anyhow::Result<()> {
        let orchestrator = &self.all[n].orchestrator;
        until("it follows", Duration::from_secs(60), || async {
            Ok(orchestrator.readyz().await?.starts_with("standby").then_some(()))
        })
        .await
        .with_context(|| orchestrator.process.said())
    }

    /// Kills this one and starts another in its place.
    pub async fn replace(&mut self, world: &World, n: usize) -> anyhow::Result<()> {
        let member = Member::start(world)?;
        member.orchestrator.ready().await?;
        self.all[n] = member;
        Ok(())
    }
}

impl Member {
    pub fn start(world: &World) -> anyhow::Result<Self> {
        let ways: Vec<Way> = world.servers().map(|server| Way::to(server.port)).collect::<Result<_, _>>()?;
        let urls: Vec<String> = ways.iter().map(Way::url).collect();
        Ok(Self { orchestrator: world.another_by(&urls.join(","), &[])?, ways })
    }

    pub fn cut(&self) {
        self.ways.iter().for_each(Way::cut);
    }

    pub fn heal(&self) {
        self.ways.iter().for_each(Way::heal);
    }
}

/// Inputs that come until it is ended: each is sent again until the broker has acknowledged it.
pub struct Traffic {
    stop: watch::Sender<bool>,
    task: JoinHandle<anyhow::Result<BTreeSet<String>>>,
}

impl Traffic {
    pub async fn start(world: &World) -> anyhow::Result<Self> {
        let bus = Bus::connect(&world.urls()).await?;
        let (stop, mut stopped) = watch::channel(false);
        let task = tokio::spawn(async move {
            let mut every = interval(EVERY);
            every.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut acknowledged = BTreeSet::new();
            for n in 0.. {
                tokio::select! { biased; _ = stopped.changed() => break, _ = every.tick() => {} }
                acknowledged.insert(send(&bus, n).await?);
            }
            Ok(acknowledged)
        });
        Ok(Self { stop, task })
    }

    /// The ids of all that was acknowledged.
    pub async fn end(self) -> anyhow::Result<BTreeSet<String>> {
        self.stop.send_replace(true);
        self.task.await?
    }
}

async fn send(bus: &Bus, n: usize) -> anyhow::Result<String> {
    let host = format!("h{}", n * 7 % HOSTS);
    if n.is_multiple_of(REQUESTS) {
        let action = if n.is_multiple_of(2 * REQUESTS) { Action::Release } else { Action::Isolate };
        let request = event(format!("request-{}", unique()), "/test", ask(action, &host, "alice")?);
        stored(bus, bus.prefix.request("alice", &host), request).await
    } else {
        let detection = detection_event(ransomware(by_id(&host)));
        stored(bus, bus.prefix.of(Stream::Detections, SOURCES[n % SOURCES.len()]), detection).await
    }
}

async fn stored<T: Payload>(bus: &Bus, subject: String, event: Event<T>) -> anyhow::Result<String> {
    until("the broker stores an input", Duration::from_secs(60), || async {
        Ok(Some(timeout(ACK, bus.publish(subject.clone(), &event)).await??))
    })
    .await?;
    Ok(event.id)
}

/// Waits until all that is stored is answered, and checks that each input has one final decision, that of the leader of its time, and that all orders are one
/// line.
pub async fn check(world: &World, acknowledged: &BTreeSet<String>) -> anyhow::Result<()> {
    let bus = &world.bus;
    until("all inputs are acknowledged", Duration::from_secs(60), || async {
        let mut open = 0;
        for stream in [Stream::Detections, Stream::Requests] {
            let (last, floor) = bus.floor(stream).await?;
            open += last - floor;
        }
        Ok((open == 0).then_some(()))
    })
    .await?;
    let mut finals: BTreeMap<(Stream, u64), usize> = BTreeMap::new();
    let mut answered = BTreeSet::new();
    for found in bus.decisions().await? {
        let decision = found.event.data;
        let stream = match decision.input.kind {
            InputKind::Detection => Stream::Detections,
            InputKind::Request => Stream::Requests,
            _ => continue,
        };
        *finals.entry((stream, decision.sequence.context("a sequence")?)).or_default() += 1;
        answered.insert(decision.input.id);
    }
    let lost: Vec<&String> = acknowledged.difference(&answered).collect();
    ensure!(lost.is_empty(), "{} inputs have no decision: {:?}", lost.len(), &lost[..lost.len().min(3)]);
    for stream in [Stream::Detections, Stream::Requests] {
        let (last, _) = bus.floor(stream).await?;
        for sequence in 1..=last {
            let count = finals.get(&(stream, sequence)).copied().unwrap_or(0);
            ensure!(count == 1, "{stream:?} {sequence} has {count} decisions");
        }
    }
    each_in_its_term(bus).await?;
    one_line(bus).await?;
    println!("{} inputs, each with one decision", acknowledged.len());
    Ok(())
}

/// What is recorded behind a term's beginning was decided in this term.
async fn each_in_its_term(bus: &Bus) -> anyhow::Result<()> {
    let mut term = 0;
    for message in bus.raw(Stream::Decisions, &bus.prefix.all(Stream::Decisions)).await? {
        let (sequence, _) = place(&message)?;
        let seen: Option<Seen> = match bus.prefix.rest(Stream::Decisions.token(), &message.subject) {
            Some(TERM) => {
                let begun = decoded::<Term>(&message)?.term;
                ensure!(begun > term, "term {begun} begins at {sequence}, behind {term}");
                term = begun;
                continue;
            }
            Some(POLICY) => {
                let of = decoded::<PolicyActivated>(&message)?.term;
                ensure!(of == term, "{sequence}: a policy of term {of} in term {term}");
                continue;
            }
            Some(PAGES) => Some(decoded::<Page>(&message)?.seen),
            _ => decoded::<Decision>(&message)?.facts.seen,
        };
        let of = seen.context("what a decision saw")?.term;
        ensure!(of == term, "{sequence}: a decision of term {of} in term {term}");
    }
    Ok(())
}

/// Generations of each host rise by one, each message of ORDERS names the one before it, and no input made two orders of a host.
pub async fn one_line(bus: &Bus) -> anyhow::Result<()> {
    let (mut prev, mut generations, mut made) = ("0".repeat(64), BTreeMap::new(), BTreeSet::new());
    for message in bus.raw(Stream::Orders, &bus.prefix.all(Stream::Orders)).await? {
        let (sequence, _) = place(&message)?;
        let named = if message.subject.ends_with(TERM) {
            decoded::<Term>(&message)?.prev
        } else {
            let order = decoded::<Order>(&message)?;
            let last = generations.insert(order.host.clone(), order.generation).unwrap_or(0);
            ensure!(order.generation == last + 1, "{}: generation {} behind {last}", order.host, order.generation);
            ensure!(
                made.insert((order.host.clone(), order.issued_by.clone())),
                "{}: two orders by {:?}",
                order.host,
                order.issued_by
            );
            Some(order.prev)
        };
        ensure!(named.as_ref() == Some(&prev), "the chain breaks at {sequence}: {named:?} and not {prev}");
        prev = ids::sha256(&message.payload);
    }
    Ok(())
}

/// When the last term began, by the record in ORDERS that fences the one before it, and its number.
pub async fn last_term(bus: &Bus) -> anyhow::Result<(u64, Timestamp)> {
    let records = bus.raw(Stream::Orders, &bus.prefix.of(Stream::Orders, TERM)).await?;
    let last = records.last().context("a term was begun")?;
    Ok((decoded::<Term>(last)?.term, place(last)?.1))
}

fn decoded<T: Payload>(message: &jetstream::Message) -> anyhow::Result<T> {
    Ok(envelope::decode::<T>(std::iter::empty(), &message.payload)?.data)
}

fn place(message: &jetstream::Message) -> anyhow::Result<(u64, Timestamp)> {
    let info = message.info().map_err(|error| anyhow::anyhow!("{error}"))?;
    Ok((info.stream_sequence, info.published))
}
