//! The end of the way alone: an order that is heard, until the kernel has the rules.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use portcullis_schemas::envelope::{self, Event};
use portcullis_schemas::events::{Order, Posture};
use portcullis_tests::bus::Bus;

use crate::floor::{Floor, Turn};
use crate::portcullis::Portcullis;
use crate::rules::Rules;
use crate::series::Series;

/// Both, for the floor and for Portcullis. Nothing else may give orders meanwhile. `file` is the agent's posture file.
pub async fn measure(
    (bus, file, breath): (&Bus, &Path, Duration),
    (floor, portcullis, rules): (&mut Floor, &mut Portcullis, &Rules),
    (warm_up, rounds): (usize, usize),
) -> anyhow::Result<[[Series; 2]; 2]> {
    let orders = bus.orders("h1").await?;
    let last = |wanted| orders.iter().rev().find(|order| order.event.data.posture == wanted).context("an order");
    let (isolate, open) = (last(Posture::Isolated)?, last(Posture::Open)?);
    let mut generation = orders.last().context("an order")?.event.data.generation;
    let mut next = |order: &Event<Order>| {
        generation += 1;
        let id = format!("{}:{generation}", order.data.host);
        Event { id, data: Order { generation, ..order.data.clone() }, ..order.clone() }
    };
    let mut times: [[Series; 2]; 2] = Default::default();
    for round in 0..warm_up + rounds {
        for (direction, template) in [&isolate.event, &open.event].into_iter().enumerate().rev() {
            let posture = template.data.posture;
            let turn = Turn { file: std::fs::read(file)?, batch: rules.batch(posture), posture };
            tokio::time::sleep(breath).await;
            let least = floor.hear(envelope::encode(template)?, turn).await?.in_force;
            tokio::time::sleep(breath).await;
            let took = portcullis.hear(bus, &next(template)).await?.in_force;
            if round >= warm_up {
                times[0][direction].add(least);
                times[1][direction].add(took);
            }
        }
    }
    Ok(times)
}
