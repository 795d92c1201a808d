//! What the service has seen: each try with its headers, how long it lasted, and how it ended.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use http::HeaderMap;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// Tries kept; a test that sends more must not make the pod's memory grow.
const MOST_KEPT: usize = 50_000;

/// What the service has seen since it was last told to forget.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Record {
    /// Tries that arrived.
    pub tries: u64,
    /// Tries that are being worked on.
    pub in_flight: u64,
    /// The most that were worked on at once.
    pub most_in_flight: u64,
    /// The tries themselves, by their `x-request-id`.
    pub seen: BTreeMap<String, Vec<Try>>,
}

/// One try.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Try {
    /// Milliseconds until it ended.
    pub lasted: Option<u64>,
    /// The status it was answered with; none when the caller went away first.
    pub status: Option<u16>,
}

/// A record that many requests write to.
#[derive(Clone, Debug, Default)]
pub struct Recorder(Arc<Mutex<Record>>);

/// A try that has not ended. Dropped without [`answered`](Self::answered), it was cut off by the caller.
#[derive(Debug)]
pub struct Running {
    recorder: Recorder,
    id: String,
    place: usize,
    since: Instant,
    status: Option<u16>,
}

impl Record {
    /// How many requests needed one try, two tries and so on.
    pub fn tries_a_request(&self) -> BTreeMap<usize, usize> {
        self.seen.values().fold(BTreeMap::new(), |mut counts, tries| {
            *counts.entry(tries.len()).or_default() += 1;
            counts
        })
    }

    /// How long the tries lasted that the caller cut off.
    pub fn cut_after(&self) -> Vec<Duration> {
        let cut = self.seen.values().flatten().filter(|seen| seen.status.is_none());
        cut.filter_map(|seen| seen.lasted).map(Duration::from_millis).collect()
    }
}

impl Recorder {
    /// Begins a try, with its number: how many began before it since the record was last cleared.
    pub fn begin(&self, headers: &HeaderMap) -> (Running, u64) {
        let id = headers.get("x-request-id").and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
        let mut record = self.0.lock();
        let number = record.tries;
        record.tries += 1;
        record.in_flight += 1;
        record.most_in_flight = record.most_in_flight.max(record.in_flight);
        let mut place = usize::MAX;
        if number < MOST_KEPT as u64 {
            let tries = record.seen.entry(id.clone()).or_default();
            place = tries.len();
            tries.push(Try::default());
        }
        drop(record);
        (Running { recorder: self.clone(), id, place, since: Instant::now(), status: None }, number)
    }

    /// What has been seen.
    pub fn read(&self) -> Record {
        self.0.lock().clone()
    }

    /// Forgets what has ended; what is in flight stays counted.
    pub fn clear(&self) {
        let mut record = self.0.lock();
        let in_flight = record.in_flight;
        *record = Record { in_flight, most_in_flight: in_flight, ..Record::default() };
    }
}

impl Running {
    /// Ends the try with an answer.
    pub fn answered(mut self, status: u16) {
        self.status = Some(status);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut record = self.recorder.0.lock();
        record.in_flight = record.in_flight.saturating_sub(1);
        let seen = record.seen.get_mut(&self.id).and_then(|tries| tries.get_mut(self.place));
        if let Some(seen) = seen {
            seen.lasted = u64::try_from(self.since.elapsed().as_millis()).ok();
            seen.status = self.status;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_try_ends_answered_or_cut() {
        let recorder = Recorder::default();
        let mut headers = HeaderMap::new();
        headers.insert("x-request-id", "a".parse().unwrap());
        let (first, _) = recorder.begin(&headers);
        let (second, number) = recorder.begin(&headers);
        assert_eq!((number, recorder.read().in_flight), (1, 2));
        drop(first);
        second.answered(200);
        let record = recorder.read();
        assert_eq!((record.in_flight, record.most_in_flight), (0, 2));
        assert_eq!(record.seen["a"].iter().map(|seen| seen.status).collect::<Vec<_>>(), [None, Some(200)]);
        assert_eq!(record.tries_a_request(), BTreeMap::from([(2, 1)]));
        assert_eq!(record.cut_after().len(), 1);
    }
}
