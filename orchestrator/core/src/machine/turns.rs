//! Detections that wait, served in turn by source: a source that floods delays its own detections and no others.

use std::collections::{BTreeMap, VecDeque};

use super::queue::Item;

#[derive(Debug, Default)]
pub(super) struct Turns {
    /// What waits of each source in its own order; of one at least.
    by_source: BTreeMap<String, VecDeque<Item>>,
    /// Whose turn is next.
    order: VecDeque<String>,
    len: usize,
}

impl Turns {
    pub(super) fn push(&mut self, item: Item) {
        self.len += 1;
        match self.by_source.get_mut(item.source()) {
            Some(waiting) => waiting.push_back(item),
            None => {
                let source = item.source().to_owned();
                self.order.push_back(source.clone());
                self.by_source.insert(source, VecDeque::from([item]));
            }
        }
    }

    /// Hands one of each source in turn to `take`, which gives back what it has no place for. That source is first the next time.
    pub(super) fn take(&mut self, mut take: impl FnMut(Item) -> Option<Item>) {
        let mut refused = VecDeque::new();
        while let Some(source) = self.order.pop_front() {
            let Some(waiting) = self.by_source.get_mut(&source) else { continue };
            match waiting.pop_front().and_then(&mut take) {
                Some(item) => {
                    waiting.push_front(item);
                    refused.push_back(source);
                }
                None => {
                    self.len -= 1;
                    match waiting.is_empty() {
                        true => drop(self.by_source.remove(&source)),
                        false => self.order.push_back(source),
                    }
                }
            }
        }
        self.order = refused;
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Takes everything out.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = Item> {
        std::mem::take(self).by_source.into_values().flatten()
    }
}

#[cfg(test)]
mod tests;
