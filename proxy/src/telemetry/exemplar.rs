//! Which request a number is about: of each bucket of durations and each cause of failure the last request that can be looked up.
//!
//! A request is an example if its trace is sampled, or if it failed and has an id, by which `firebreak explain` finds it. All
//! others, which are nearly all, cost nothing here. A worker's examples have a lock that only the worker and a scrape take. The
//! worker does not wait for it: an example that comes during a scrape is left out, and the next one takes its place.

use std::{array, time::Duration};

use http::HeaderValue;
use jiff::Timestamp;
use parking_lot::Mutex;

use super::histogram::{BOUNDS, bucket_of};

/// Longest id that is kept, in bytes; of longer ones the beginning, by which they are found too. An example's labels may have 128
/// characters with their names.
const ID: usize = 64;

/// By what a request is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name {
    /// The trace, which is sampled.
    Trace(u128),
    /// `x-request-id`.
    Request(Id),
}

/// An id of a request: visible characters. It is held in place, so that keeping it allocates nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Id {
    bytes: [u8; ID],
    length: usize,
}

/// A request as an example.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exemplar {
    /// Which one it is.
    pub name: Name,
    /// How long it took.
    pub took: Duration,
    /// When it ended.
    pub at: Timestamp,
}

/// A cause of failures: places in [`REASONS`](crate::verdict::REASONS) and in [`BLAMED`](super::metrics::BLAMED).
pub type Cause = (usize, usize);

/// The last examples, of one worker or of several together.
#[derive(Clone, Debug, Default)]
pub struct Exemplars {
    durations: [Option<Exemplar>; BOUNDS.len() + 1],
    /// Only causes that there were: most callees know a few of two hundred.
    failures: Vec<(Cause, Exemplar)>,
}

/// One worker's examples; nothing is allocated before the first.
#[derive(Debug, Default)]
pub struct Kept(Mutex<Option<Box<Exemplars>>>);

impl Id {
    /// The id that a header holds, if it is text and not empty.
    pub fn of(value: &HeaderValue) -> Option<Self> {
        let text = value.to_str().ok().filter(|text| !text.is_empty())?;
        let (mut bytes, length) = ([0; ID], text.len().min(ID));
        bytes[..length].copy_from_slice(&text.as_bytes()[..length]);
        Some(Self { bytes, length })
    }

    /// The id as text.
    pub fn text(&self) -> &str {
        // Headers that are text are ASCII, of which any part is text.
        std::str::from_utf8(&self.bytes[..self.length]).unwrap_or_default()
    }
}

impl Exemplars {
    /// The last request in this bucket.
    pub fn duration(&self, bucket: usize) -> Option<&Exemplar> {
        self.durations.get(bucket)?.as_ref()
    }

    /// The last request that failed for this cause.
    pub fn failure(&self, cause: Cause) -> Option<&Exemplar> {
        self.failures.iter().find(|(known, _)| *known == cause).map(|(_, exemplar)| exemplar)
    }

    fn put(&mut self, exemplar: Exemplar, cause: Option<Cause>) {
        self.durations[bucket_of(exemplar.took)] = Some(exemplar);
        if let Some(cause) = cause {
            self.put_failure(cause, exemplar);
        }
    }

    fn put_failure(&mut self, cause: Cause, exemplar: Exemplar) {
        match self.failures.iter_mut().find(|(known, _)| *known == cause) {
            Some((_, known)) => *known = exemplar,
            None => self.failures.push((cause, exemplar)),
        }
    }

    /// The later ones of these and another worker's.
    #[must_use]
    pub fn and(mut self, other: &Kept) -> Self {
        let other = other.0.lock();
        let Some(other) = &*other else { return self };
        self.durations = array::from_fn(|bucket| later(self.durations[bucket], other.durations[bucket]));
        for (cause, exemplar) in &other.failures {
            if let Some(later) = later(self.failure(*cause).copied(), Some(*exemplar)) {
                self.put_failure(*cause, later);
            }
        }
        self
    }
}

impl Kept {
    /// Keeps an example, of a failure if there is a cause; or not, while it is being read.
    pub fn put(&self, exemplar: Exemplar, cause: Option<Cause>) {
        if let Some(mut kept) = self.0.try_lock() {
            kept.get_or_insert_default().put(exemplar, cause);
        }
    }
}

fn later(one: Option<Exemplar>, other: Option<Exemplar>) -> Option<Exemplar> {
    [one, other].into_iter().flatten().max_by_key(|exemplar| exemplar.at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exemplar(name: Name, millis: u64, at: i64) -> Exemplar {
        Exemplar { name, took: Duration::from_millis(millis), at: Timestamp::from_second(at).unwrap() }
    }

    #[test]
    fn the_last_of_all_workers_is_the_example() {
        let workers = [Kept::default(), Kept::default()];
        workers[0].put(exemplar(Name::Trace(1), 4, 10), Some((3, 0)));
        workers[1].put(exemplar(Name::Trace(2), 5, 9), Some((3, 0)));
        workers[1].put(exemplar(Name::Trace(3), 60_000, 11), Some((3, 1)));
        let merged = workers.iter().fold(Exemplars::default(), Exemplars::and);
        let name = |exemplar: Option<&Exemplar>| exemplar.map(|exemplar| exemplar.name);
        assert_eq!(name(merged.duration(3)), Some(Name::Trace(1)));
        assert_eq!(name(merged.duration(16)), Some(Name::Trace(3)));
        assert_eq!(merged.duration(4), None);
        assert_eq!(
            [(3, 0), (3, 1), (4, 0)].map(|cause| name(merged.failure(cause))),
            [Some(Name::Trace(1)), Some(Name::Trace(3)), None]
        );
    }

    #[test]
    fn a_scrape_holds_up_no_worker() {
        let kept = Kept::default();
        let scrape = kept.0.lock();
        kept.put(exemplar(Name::Trace(1), 4, 10), None);
        drop(scrape);
        assert_eq!(Exemplars::default().and(&kept).duration(3), None);
        kept.put(exemplar(Name::Trace(2), 4, 10), None);
        assert!(Exemplars::default().and(&kept).duration(3).is_some(), "the next one is kept");
    }

    #[test]
    fn an_id_is_text_and_no_longer_than_labels_may_be() {
        let of = |bytes: &[u8]| Id::of(&HeaderValue::from_bytes(bytes).unwrap());
        assert_eq!(of(b"pay-1").unwrap().text(), "pay-1");
        assert_eq!(of(&[b'x'; 300]).unwrap().text(), "x".repeat(64));
        assert_eq!((of(b""), of(b"\xff")), (None, None));
    }
}
