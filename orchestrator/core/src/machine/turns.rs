//! Detections that wait, served in turn by source: a source that floods delays its own detections and no others.

use std::collections::{BTreeMap, VecDeque};

#[derive(Debug)]
pub(super) struct Turns<T> {
    /// What waits of each source in its own order; of one at least.
    by_source: BTreeMap<String, VecDeque<T>>,
    /// Whose turn is next.
    order: VecDeque<String>,
    len: usize,
}

impl<T> Default for Turns<T> {
    fn default() -> Self {
        Self { by_source: BTreeMap::new(), order: VecDeque::new(), len: 0 }
    }
}

impl<T> Turns<T> {
    pub(super) fn push(&mut self, source: &str, item: T) {
        self.len += 1;
        match self.by_source.get_mut(source) {
            Some(waiting) => waiting.push_back(item),
            None => {
                self.order.push_back(source.to_owned());
                self.by_source.insert(source.to_owned(), VecDeque::from([item]));
            }
        }
    }

    /// Hands one of each source in turn to `take`, which gives back what it has no place for. That source is first the next time.
    pub(super) fn take(&mut self, mut take: impl FnMut(T) -> Option<T>) {
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
    pub(super) fn drain(&mut self) -> impl Iterator<Item = T> {
        std::mem::take(self).by_source.into_values().flatten()
    }
}

#[cfg(test)]
mod tests;
