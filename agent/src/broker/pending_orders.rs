//! Orders that wait for the loop. Each is complete in itself, so of those that can be read only the newest is carried out.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use portcullis_schemas::HostId;
use portcullis_schemas::envelope;
use portcullis_schemas::events::Order;
use tokio::sync::Notify;
use tokio::task::yield_now;

use crate::broker::event::Received;

/// A burst that has come is read to its end before the loop takes an order; one that never ends must not keep it.
const ROUNDS: usize = 64;

#[derive(Clone, Debug, Default)]
pub struct PendingOrders(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    orders: Mutex<Orders>,
    arrived: Notify,
}

#[derive(Debug, Default)]
struct Orders {
    /// By generation.
    newest: Option<(u64, Received)>,
    /// The last of those that cannot be read, or are another host's: they say nothing about an order that is good.
    odd: Option<Received>,
    /// How many have come.
    count: u64,
}

impl PendingOrders {
    /// `me` is this host.
    pub fn put(&self, me: &HostId, received: Received) {
        let generation = generation(me, &received);
        let mut orders = self.lock();
        orders.count = orders.count.wrapping_add(1);
        match generation {
            Some(generation) => {
                if orders.newest.as_ref().is_none_or(|(newest, _)| *newest <= generation) {
                    orders.newest = Some((generation, received));
                }
            }
            None if received.body.is_empty() => {}
            None => orders.odd = Some(received),
        }
        drop(orders);
        self.0.arrived.notify_one();
    }

    /// The next one to judge. None is lost where the wait is given up.
    pub async fn next(&self) -> Received {
        loop {
            if self.lock().is_empty() {
                self.0.arrived.notified().await;
                continue;
            }
            let mut count = self.lock().count;
            for _ in 0..ROUNDS {
                yield_now().await;
                if std::mem::replace(&mut count, self.lock().count) == count {
                    break;
                }
            }
            if let Some(received) = self.lock().take() {
                return received;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Orders> {
        self.0.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Orders {
    fn is_empty(&self) -> bool {
        self.newest.is_none() && self.odd.is_none()
    }

    fn take(&mut self) -> Option<Received> {
        self.odd.take().or_else(|| self.newest.take().map(|(_, received)| received))
    }
}

fn generation(me: &HostId, received: &Received) -> Option<u64> {
    let headers = received.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let order = envelope::decode::<Order>(headers, &received.body).ok()?.data;
    (order.host == *me).then_some(order.generation)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    const ORDER: &str = include_str!("../../../schemas/examples/order.json");

    fn received(change: impl FnOnce(&mut Value)) -> Received {
        let mut order: Value = serde_json::from_str(ORDER).unwrap();
        change(&mut order);
        Received { subject: String::new(), headers: Vec::new(), body: order.to_string().into(), anchor: None }
    }

    fn of(generation: u64) -> Received {
        received(|order| order["data"]["generation"] = generation.into())
    }

    fn me() -> HostId {
        let order: Value = serde_json::from_str(ORDER).unwrap();
        serde_json::from_value(order["data"]["host"].clone()).unwrap()
    }

    async fn all(waiting: &PendingOrders) -> Vec<Option<u64>> {
        let mut taken = Vec::new();
        while !waiting.lock().is_empty() {
            taken.push(generation(&me(), &waiting.next().await));
        }
        taken
    }

    #[tokio::test]
    async fn of_orders_that_wait_the_newest_is_taken_whatever_their_order() {
        for generations in [[7, 8, 9], [9, 8, 7], [8, 9, 7]] {
            let waiting = PendingOrders::default();
            generations.into_iter().for_each(|generation| waiting.put(&me(), of(generation)));
            assert_eq!(all(&waiting).await, [Some(9)]);
        }
    }

    #[tokio::test]
    async fn what_cannot_be_read_or_is_for_another_host_hides_no_order() {
        let waiting = PendingOrders::default();
        let other = received(|order| {
            order["data"]["host"] = "another".into();
            order["data"]["generation"] = u64::MAX.into();
        });
        let broken = Received { body: "{".into(), ..of(1) };
        [other, of(7), broken].into_iter().for_each(|received| waiting.put(&me(), received));
        assert_eq!(all(&waiting).await, [None, Some(7)], "one of them is told, and the order is taken");
    }

    #[tokio::test]
    async fn what_comes_while_another_is_waited_for_is_heard() {
        let waiting = PendingOrders::default();
        let (taken, ()) = tokio::join!(waiting.next(), async { waiting.put(&me(), of(7)) });
        assert_eq!(generation(&me(), &taken), Some(7));
    }
}
