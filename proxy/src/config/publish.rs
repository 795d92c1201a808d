//! Putting a document in force, or saying why not.
//!
//! A document that cannot be read changes nothing. An entry that cannot be read keeps its last good form. Either way it
//! shows: in the report, in the metrics and on the admin port.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use firebreak_crds::{
    pod::Ports,
    spec::Labels,
    wire::{self, Config, Decoded, Entry},
};
use jiff::Timestamp;
use parking_lot::Mutex;
use serde::Serialize;
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval},
};

use super::{compile::Carried, endpoints::EndpointSource};
use crate::{
    aside::aside,
    snapshot::Snapshot,
    telemetry::metrics::{ConfigMetrics, Registry},
    upstream::checker::Checked,
};

/// How often it is looked for what has left the config and is over.
const TIDY: Duration = Duration::from_mins(1);

/// Holds what is in force and takes what is new.
#[derive(Debug)]
pub struct Publisher {
    current: Arc<ArcSwap<Snapshot>>,
    state: Mutex<State>,
    /// Apart, so that nobody who asks waits for a config that is being put in force.
    report: Mutex<Report>,
    in_force: Mutex<Arc<Config>>,
    checked: watch::Sender<Arc<[Checked]>>,
    metrics: Arc<ConfigMetrics>,
}

#[derive(Debug)]
struct State {
    carried: Carried,
    labels: Labels,
    /// What is in force, with broken entries in their last good form.
    config: Arc<Config>,
    /// What was in force before, as long as workers hold it: they would have to free it between two requests.
    retired: Vec<Arc<Snapshot>>,
}

/// What became of the document that was published last.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Content hash of the document in force; empty before the first.
    pub revision: String,
    /// When it was put in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub applied_at: Option<Timestamp>,
    /// Why the newest document was refused as a whole, if it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    /// Entries of the newest document that could not be read and stay as they were.
    pub problems: Vec<String>,
    /// What this version does not know and ignored.
    pub ignored: Vec<String>,
}

impl Publisher {
    /// Nothing in force yet: the proxy forwards. Endpoints will be those that `source` knows.
    pub fn new(registry: &Arc<Registry>, labels: Labels, source: Box<dyn EndpointSource>) -> Self {
        let carried = Carried::new(Arc::clone(registry), source);
        let current = Arc::new(ArcSwap::from_pointee(carried.empty()));
        let state = State { carried, labels, config: Arc::default(), retired: Vec::new() };
        let checked = watch::Sender::new(Arc::default());
        Self {
            current,
            state: Mutex::new(state),
            report: Mutex::default(),
            in_force: Mutex::default(),
            checked,
            metrics: registry.config(),
        }
    }

    /// The same, for a pod whose ports have these names, if they are known.
    #[must_use]
    pub fn knowing(mut self, ports: Option<Ports>) -> Self {
        self.state.get_mut().carried.ports = ports;
        self
    }

    /// Where the workers read.
    pub fn current(&self) -> Arc<ArcSwap<Snapshot>> {
        Arc::clone(&self.current)
    }

    /// The endpoints whose health is to be checked.
    pub fn checked(&self) -> watch::Receiver<Arc<[Checked]>> {
        self.checked.subscribe()
    }

    /// What became of the document that was published last.
    pub fn report(&self) -> Report {
        self.report.lock().clone()
    }

    /// What is in force, as a document.
    pub fn document(&self) -> Result<String, serde_json::Error> {
        Ok(self.in_force().encode()?.0)
    }

    /// Reads what is in force.
    pub fn with_config<T>(&self, read: impl FnOnce(&Config) -> T) -> T {
        read(&self.in_force())
    }

    fn in_force(&self) -> Arc<Config> {
        Arc::clone(&self.in_force.lock())
    }

    /// Puts a document in force, as far as it can be read. Traffic goes before it, and it waits for that.
    pub fn publish(&self, document: &[u8]) -> Report {
        self.publish_after(document, |_| {})
    }

    /// The same, and does what `prepare` says just before a new config is in force.
    pub fn publish_after(&self, document: &[u8], prepare: impl FnOnce(&Config) + Send) -> Report {
        let now = Instant::now();
        aside("config", || self.put_in_force(document, now, prepare))
    }

    fn put_in_force(&self, document: &[u8], now: Instant, prepare: impl FnOnce(&Config)) -> Report {
        let mut state = self.state.lock();
        state.forget_retired();
        let (before, revision) = (self.report(), wire::revision(document));
        if revision == before.revision && before.refused.is_none() {
            return before;
        }
        let report = match wire::decode(document) {
            Ok(decoded) => self.apply(&mut state, decoded, revision, now, prepare),
            Err(error) => {
                self.metrics.refused();
                Report { refused: Some(error.to_string()), ..before }
            }
        };
        self.report.lock().clone_from(&report);
        report
    }

    /// Takes over changed labels of the pod: which policies apply may depend on them.
    pub fn relabel(&self, labels: Labels) {
        let mut state = self.state.lock();
        if state.labels != labels {
            state.labels = labels;
            let (state, now) = (&mut *state, Instant::now());
            aside("config", || self.swap(state, &self.report().revision, now));
        }
    }

    /// Forgets what has left the config and is over. Never ends.
    pub async fn keep_tidy(&self) {
        let mut ticks = interval(TIDY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let now = ticks.tick().await;
            self.tidy(now);
        }
    }

    fn tidy(&self, now: Instant) {
        // If it is being replaced there will be time for this in a minute.
        if let Some(mut state) = self.state.try_lock() {
            state.carried.tidy(now);
            state.forget_retired();
        }
    }

    fn apply(
        &self,
        state: &mut State,
        decoded: Decoded,
        revision: String,
        now: Instant,
        prepare: impl FnOnce(&Config),
    ) -> Report {
        let Decoded { mut config, problems, ignored } = decoded;
        config.entries.extend(problems.iter().filter_map(|problem| last_good(&state.config, problem)));
        state.config = Arc::new(config);
        let report = Report {
            revision,
            applied_at: Some(Timestamp::now()),
            refused: None,
            problems: problems.iter().map(ToString::to_string).collect(),
            ignored,
        };
        self.metrics.applied(&report);
        prepare(&state.config);
        self.swap(state, &report.revision, now);
        self.in_force.lock().clone_from(&state.config);
        report
    }

    fn swap(&self, state: &mut State, revision: &str, now: Instant) {
        let State { carried, labels, config, .. } = state;
        let before = self.current.swap(Arc::new(carried.compile(config, revision, labels, now)));
        state.retired.push(before);
        state.forget_retired();
        self.checked.send_replace(state.carried.checked());
    }
}

impl State {
    fn forget_retired(&mut self) {
        self.retired.retain(|snapshot| Arc::strong_count(snapshot) > 1);
    }
}

fn last_good(config: &Config, problem: &wire::EntryProblem) -> Option<Entry> {
    config.entries.iter().find(|entry| entry.name == problem.name && entry.body.kind() == problem.kind).cloned()
}

#[cfg(test)]
mod tests;
