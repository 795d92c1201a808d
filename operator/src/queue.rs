//! What is to be brought in order: each item at most once, at most one write of it at a time, failures later and later.
//!
//! Level-triggered, as controllers are: an item says only *that* something may be wrong. What to write is decided when its
//! turn comes, from the world as it is then, so ten changes in a burst are one write.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tokio::time::Instant;

/// The first pause after a failure; it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// The longest pause after failures.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Items of one sort that wait for their turn.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    due: BTreeMap<T, Instant>,
    busy: BTreeSet<T>,
    failures: BTreeMap<T, u32>,
    most: usize,
}

impl<T: Ord + Clone> Queue<T> {
    /// A queue that lets at most `most` items be worked on at once.
    pub(crate) fn new(most: usize) -> Self {
        Self { due: BTreeMap::new(), busy: BTreeSet::new(), failures: BTreeMap::new(), most }
    }

    /// `item` is to be looked at now, whatever pause it had: something changed.
    pub(crate) fn add(&mut self, item: T, now: Instant) {
        self.due.insert(item, now);
    }

    /// The items whose turn it is. Each must be given back to [`done`](Self::done).
    pub(crate) fn take(&mut self, now: Instant) -> Vec<T> {
        let room = self.most.saturating_sub(self.busy.len());
        let ready = |(item, due): &(&T, &Instant)| **due <= now && !self.busy.contains(*item);
        let taken: Vec<T> = self.due.iter().filter(ready).take(room).map(|(item, _)| item.clone()).collect();
        for item in &taken {
            self.due.remove(item);
            self.busy.insert(item.clone());
        }
        taken
    }

    /// The work on `item` is over. After a failure it comes again by itself, later each time.
    pub(crate) fn done(&mut self, item: &T, well: bool, now: Instant) {
        self.busy.remove(item);
        if well {
            self.failures.remove(item);
            return;
        }
        let failures = self.failures.entry(item.clone()).or_default();
        let pause = FIRST_PAUSE.saturating_mul(1 << (*failures).min(16)).min(LONGEST_PAUSE);
        *failures += 1;
        // News that came while the write was under way is newer than its failure; it still waits, or a refused write
        // would be repeated as fast as the API server can refuse it.
        self.due.insert(item.clone(), now + pause);
    }

    /// When the next item can be taken; nothing while there is none or no room for it.
    pub(crate) fn next(&self) -> Option<Instant> {
        if self.busy.len() >= self.most {
            return None;
        }
        self.due.iter().filter(|(item, _)| !self.busy.contains(*item)).map(|(_, due)| *due).min()
    }

    /// Whether anything is being worked on or will be without a pause after a failure.
    pub(crate) fn moving(&self) -> bool {
        !self.busy.is_empty() || self.due.keys().any(|item| !self.failures.contains_key(item))
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        *self = Self::new(self.most);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_item_is_worked_on_once_at_a_time() {
        let (mut queue, now) = (Queue::new(8), Instant::now());
        queue.add("a", now);
        queue.add("a", now);
        assert_eq!(queue.take(now), ["a"]);
        queue.add("a", now);
        assert!(queue.take(now).is_empty(), "busy");
        assert_eq!(queue.next(), None);
        queue.done(&"a", true, now);
        assert_eq!(queue.take(now), ["a"], "what came meanwhile is looked at afterwards");
    }

    #[tokio::test(start_paused = true)]
    async fn failures_come_back_later_each_time_and_news_at_once() {
        let (mut queue, now) = (Queue::new(8), Instant::now());
        queue.add("a", now);
        let mut pauses = Vec::new();
        let mut at = now;
        for _ in 0..9 {
            assert_eq!(queue.take(at), ["a"]);
            queue.done(&"a", false, at);
            let next = queue.next().unwrap();
            pauses.push((next - at).as_millis());
            at = next;
        }
        assert_eq!(pauses, [250, 500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000]);
        assert!(!queue.moving());
        queue.add("a", now);
        assert_eq!(queue.take(now), ["a"]);
    }

    #[tokio::test(start_paused = true)]
    async fn only_so_many_at_once() {
        let (mut queue, now) = (Queue::new(2), Instant::now());
        (0..5).for_each(|item| queue.add(item, now));
        assert_eq!(queue.take(now), [0, 1]);
        assert_eq!((queue.take(now), queue.next()), (vec![], None));
        queue.done(&0, true, now);
        assert_eq!(queue.take(now), [2]);
    }
}
