//! What hosts say of themselves: hellos, which are stored as inventories where they are news, and stored states.

use portcullis_schemas::events::Inventory;
use portcullis_schemas::rejected::Malformed;
use portcullis_schemas::{Stream, Timestamp};

use super::Machine;
use super::event::{Command, Message, Now, Report};
use super::queue::{BATCH, Item};
use super::{read, write};
use crate::{Input, decide};

impl Machine {
    /// A hello decides nothing before it is stored. A follower only notes that the host lives.
    pub(super) fn hello(&mut self, message: Message, now: Now) {
        let decoded = match read::hello(&self.prefix, &message) {
            Ok(decoded) => decoded,
            Err(why) => return self.refuse_hello(message, why),
        };
        let Input::Hello(meta, hello) = &decoded.input else { return };
        if !self.is_leading() {
            return self.fleet.hear(&hello.host, meta.at);
        }
        self.report(Report::Input(decoded.key.kind));
        let outcome = decide(self.basis(), &decoded.input);
        if self.fleet.spelled_otherwise(&hello.host).is_none() {
            let inventory = self.fleet.inventory_for(hello, meta.at);
            self.fleet.hear(&hello.host, meta.at);
            if let Some(inventory) = inventory.filter(|_| !self.storing.contains(&hello.host)) {
                self.store_inventory(inventory, meta.at);
            }
        }
        self.notify(outcome.notices.into_iter().map(|notice| (notice, meta.at)), now);
    }

    /// Not while one of the same host is on its way.
    pub(super) fn store_inventory(&mut self, inventory: Inventory, at: Timestamp) {
        let host = inventory.hello.host.clone();
        match write::inventory(&self.prefix, inventory, at) {
            Ok(message) => {
                self.storing.insert(host.clone());
                self.inventories.push_back((host, message));
            }
            Err(why) => self.report(Report::Unanswerable { token: host.to_string(), why }),
        }
    }

    /// What operators say of hosts is read back from their inventories alone, once it is there.
    pub(super) fn store_words(&mut self, now: Now) {
        if self.is_leading() && std::mem::take(&mut self.words_due) {
            for inventory in self.fleet.unstored_words() {
                if !self.storing.contains(&inventory.hello.host) {
                    self.store_inventory(inventory, now.broker);
                }
            }
        }
    }

    /// Hosts that come in thousands are stored in a few batches.
    pub(super) fn store_inventories(&mut self) {
        if self.in_flight.is_empty() && !self.inventories.is_empty() {
            let next = self.inventories.len().min(BATCH);
            let (hosts, messages) = self.inventories.drain(..next).unzip();
            self.in_flight = hosts;
            self.commands.push_back(Command::StoreInventories(messages));
        }
    }

    /// What is stored comes by its stream; of what is not, the next hello of the host stores it.
    pub(super) fn inventories_stored(&mut self, stored: Result<(), String>) {
        let hosts = std::mem::take(&mut self.in_flight);
        if let Err(error) = stored {
            for host in &hosts {
                self.storing.remove(host);
            }
            self.report(Report::InventoriesRefused { hosts: hosts.len(), error });
        }
    }

    fn refuse_hello(&mut self, message: Message, why: Malformed) {
        if self.is_leading() {
            self.reject_hello(message, why);
        }
    }

    /// A stored state or inventory. The leader answers it in its turn; a follower takes it, and keeps it where it wants an answer.
    pub(super) fn observe(&mut self, item: Item) {
        let is_answered = self.answered.contains(item.stream(), item.sequence());
        // The states are read again at each start.
        if self.is_leading() && !is_answered {
            return self.queue.push(item);
        }
        let (Item::State(message) | Item::Inventory(message)) = &item else { return };
        let read = match &item {
            Item::State(_) => read::input(&self.prefix, Stream::States, message),
            _ => read::inventory(&self.prefix, message),
        };
        // The leader keeps what cannot be read.
        let Ok(decoded) = read else { return };
        let host = match &decoded.input {
            Input::State(meta, state) => {
                self.take_state(message.sequence, state, meta.at);
                state.host.clone()
            }
            Input::Inventory(_, hello) => hello.host.clone(),
            _ => return,
        };
        if self.is_leading() {
            return;
        }
        let outcome = decide(self.basis(), &decoded.input);
        if outcome.decision.is_some() {
            self.unanswered.insert((item.stream(), item.sequence()), item);
        } else if outcome.notices.is_empty() {
            self.unnoticed.remove(&host);
        } else {
            self.unnoticed.insert(host, item);
        }
    }
}
