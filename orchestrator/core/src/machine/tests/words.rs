//! What operators say of a host: from its decision to an inventory that holds it.

use portcullis_schemas::events::{OperatorWord, Request};

use super::*;

#[test]
fn what_is_said_of_a_host_is_stored_in_its_inventory_behind_its_decision() {
    let mut desk = Desk::new();
    desk.labels(1, "db");
    desk.expect(&["append DECISIONS 2: decision.h1"]);
    assert_eq!(
        desk.known().map(|word| word.labels["tier"].clone()),
        Some(Some("db".into())),
        "it counts for what comes behind it"
    );
    desk.stored(Log::Decisions);
    let inventory = desk.stores();
    desk.expect(&["verdict Apply", "ack 1", "inventory h1"]);
    assert_eq!(inventory.operator.as_ref().map(|word| (word.decision, word.labels.len())), Some((3, 1)));
    desk.detect(1, "noise", 1);
    desk.stored(Log::Decisions);
    assert_eq!(desk.seen_from(), Some(3), "whoever starts by now reads its decision");
    desk.commands.clear();
    desk.give(Event::InventoriesStored(Ok(())));
    desk.give(Event::Logged(Stream::Inventory, stored("inventory.h1", body("v2", inventory), 2)));
    desk.expect(&[]);
    desk.detect(2, "noise", 1);
    assert_eq!(desk.seen_from(), None, "and by now the inventory");
}

#[test]
fn an_inventory_that_the_broker_refused_is_stored_again_in_a_while() {
    let mut desk = Desk::new();
    desk.labels(1, "db");
    desk.stored(Log::Decisions);
    desk.commands.clear();
    desk.give(Event::InventoriesStored(Err("no room".into())));
    desk.expect(&["refused inventories 1"]);
    desk.millis += 6_000;
    desk.give(Event::Tick);
    desk.expect(&["inventory h1"]);
}

#[test]
fn what_the_leader_before_said_is_stored_by_the_next_one() {
    let mut desk = Desk::new();
    desk.labels(1, "db");
    let decision = desk.bodies.last().cloned().expect("a decision");
    let mut other = Desk::following();
    let message = stored("decision.h1", decision, 3);
    other.give(Event::Logged(Stream::Decisions, message));
    assert!(other.known().is_some(), "a follower knows it too");
    other.lead(3, 0);
    other.give(Event::InventoriesStored(Ok(())));
    let mut other_inventory = other.stores();
    assert_eq!(other_inventory.operator.as_ref().map(|word| word.decision), Some(3));
    // A decision that is read once more changes nothing of a later word.
    other_inventory.operator = Some(OperatorWord { decision: 9, ..OperatorWord::default() });
    other.give(Event::Logged(Stream::Inventory, stored("inventory.h1", body("v2", other_inventory), 2)));
    assert_eq!(other.known().map(|word| word.labels.len()), Some(0));
}

#[test]
fn what_was_not_stored_leaves_no_trace() {
    let mut desk = Desk::new();
    desk.labels(1, "db");
    assert!(desk.known().is_some());
    desk.appended_as(Log::Decisions, Appended::Unclear("no answer".into()));
    desk.read(Log::Decisions, Ok(vec![stored("decision._term", term(2, "you", None), 3)]));
    assert!(desk.known().is_none(), "another process leads");
}

impl Desk {
    fn labels(&mut self, sequence: u64, tier: &str) {
        let labels = [("tier".to_owned(), Some(tier.to_owned()))].into();
        let data = Request { labels, ..request(Action::Label) };
        self.deliver(Stream::Requests, stored("request.ann.h1", body(&format!("l{sequence}"), data), sequence), 1);
    }

    fn known(&self) -> Option<OperatorWord> {
        let host = self.machine.fleet().host(&crate::testing::id("h1")).expect("it is known");
        host.inventory.as_deref().and_then(|inventory| inventory.operator.clone())
    }

    /// The last inventory that was to be stored.
    fn stores(&self) -> Inventory {
        let messages = self.commands.iter().rev().find_map(|command| match command {
            Command::StoreInventories(messages) => messages.last(),
            _ => None,
        });
        let body = messages.map(|message| message.body.clone()).or(self.inventories.last().cloned()).expect("an inventory");
        envelope::decode::<Inventory>(std::iter::empty(), &body).expect("an inventory is read").data
    }

    /// From where on the last decision says that DECISIONS is to be read.
    fn seen_from(&self) -> Option<u64> {
        self.decision(1).data.facts.seen.expect("positions").waiting
    }
}
