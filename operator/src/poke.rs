//! Hurries the kubelet: after a config has changed, the pods that read it are touched.
//!
//! The kubelet projects a changed `ConfigMap` at the pod's next sync, up to 90 seconds later. A change of a pod's annotation
//! makes it sync at once and read the `ConfigMap` from its own watch cache. The two travel on two watches, so the pod may be
//! seen first and the old content written again. Nothing tells us when the kubelet has seen the `ConfigMap`, hence two timers:
//! the first touch comes [`SOON`] after the write, by when the other watch has it too, nearly always; the second, with another
//! value, [`AGAIN`] after it, for the rest.
//!
//! What a pod was last touched with stands on it. So a replica that takes over sees which pods the one before has left
//! behind, when that ended between writing a `ConfigMap` and touching the pods, and touches these. A pod that nobody ever
//! touched was left behind if it is older than the `ConfigMap`'s content; a younger one started with that.
//!
//! Each touch is a write and its fan-out, so they are limited over time, and what is overtaken is never sent. Namespaces
//! take turns (`line`).

mod line;

use std::{collections::BTreeMap, num::NonZeroU32, time::Duration};

use firebreak_crds::marks;
use jiff::Timestamp;
use k8s_openapi::api::core::v1;
use kube::{
    Api, Client,
    api::{PartialObjectMeta, Patch, PatchParams},
};
use serde_json::json;
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use self::line::Line;
use crate::{
    FIELD_MANAGER,
    index::{Key, Pod},
    lease::Held,
    metrics::{self, Metrics},
};

/// From the write of the `ConfigMap` to the first touch.
const SOON: Duration = Duration::from_millis(150);
/// From the write of the `ConfigMap` to the second touch.
const AGAIN: Duration = Duration::from_millis(1_500);
/// How long one touch may take.
const TOUCH: Duration = Duration::from_secs(5);

/// Which namespaces' pods are to be touched, and when.
#[derive(Debug, Default)]
pub(crate) struct Rounds(BTreeMap<String, Round>);

#[derive(Debug)]
struct Round {
    revision: String,
    written: Instant,
    second: bool,
    left_behind: bool,
}

/// Pods of a namespace that are to be touched.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Touch {
    /// Where they are.
    pub(crate) namespace: String,
    /// What to touch them with.
    pub(crate) value: String,
    /// The revision that is in force; none where every pod is meant, whatever it was touched with before.
    left_behind: Option<String>,
}

impl Touch {
    /// Whether it is for `pod`, where the `ConfigMap` got its content at `written`, if that is known.
    pub(crate) fn wants(&self, pod: &Pod, written: Option<Timestamp>) -> bool {
        let Some(revision) = &self.left_behind else { return true };
        match &pod.config {
            // Both times are whole seconds: of the same one the pod may have come first.
            None => written.is_none_or(|written| pod.created <= written),
            Some(value) => *value != self.value && *value != again(revision),
        }
    }
}

impl Rounds {
    /// The config of `namespace` was written with `revision`. What was planned for an older one is forgotten.
    pub(crate) fn written(&mut self, namespace: &str, revision: &str, now: Instant) {
        self.0.insert(namespace.to_owned(), Round::new(revision, now, false));
    }

    /// The config of `namespace` is in force with `revision` and was not written by us: who wrote it may have ended before
    /// all pods were touched.
    pub(crate) fn found(&mut self, namespace: &str, revision: &str, now: Instant) {
        self.0.entry(namespace.to_owned()).or_insert_with(|| Round::new(revision, now, true));
    }

    /// What is to be touched at `now`.
    pub(crate) fn take(&mut self, now: Instant) -> Vec<Touch> {
        let due: Vec<_> = self.0.iter().filter(|(_, it)| it.at() <= now).map(|(name, _)| name.clone()).collect();
        due.into_iter().filter_map(|namespace| self.advance(namespace)).collect()
    }

    fn advance(&mut self, namespace: String) -> Option<Touch> {
        let round = self.0.get_mut(&namespace)?;
        let value = if round.second { again(&round.revision) } else { round.revision.clone() };
        let left_behind = round.left_behind.then(|| round.revision.clone());
        if round.second {
            self.0.remove(&namespace);
        } else {
            round.second = true;
        }
        Some(Touch { namespace, value, left_behind })
    }

    /// When the next is due.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.0.values().map(Round::at).min()
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }
}

impl Round {
    fn new(revision: &str, written: Instant, left_behind: bool) -> Self {
        Self { revision: revision.to_owned(), written, second: false, left_behind }
    }

    fn at(&self) -> Instant {
        self.written + if self.second { AGAIN } else { SOON }
    }
}

/// The value of the second touch.
fn again(revision: &str) -> String {
    format!("{revision}/2")
}

/// Touches pods, so many a second.
pub(crate) struct Poker {
    client: Client,
    held: Held,
    metrics: Metrics,
    per_second: NonZeroU32,
    waiting: Line,
    pods: mpsc::UnboundedReceiver<(Key, String)>,
}

impl Poker {
    /// A poker, and where to put pods with the value to touch them with; of a pod that waits only the newest value counts.
    pub(crate) fn new(
        client: Client,
        per_second: NonZeroU32,
        held: Held,
        metrics: Metrics,
    ) -> (Self, mpsc::UnboundedSender<(Key, String)>) {
        let (sender, pods) = mpsc::unbounded_channel();
        (Self { client, held, metrics, per_second, waiting: Line::default(), pods }, sender)
    }

    /// Runs until `stop` is cancelled.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut turn = interval(Duration::from_secs(1) / self.per_second.get());
        turn.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut touches = JoinSet::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                Some((pod, value)) = self.pods.recv() => self.waiting.push(pod, value),
                _ = self.held.changed() => self.waiting.clear(),
                Some(_) = touches.join_next() => {}
                _ = turn.tick(), if !self.waiting.is_empty() => {
                    if let Some((pod, value)) = self.waiting.pop() {
                        touches.spawn(touch(self.client.clone(), pod, value, self.metrics.clone()));
                    }
                }
            }
        }
    }
}

async fn touch(client: Client, pod: Key, value: String, metrics: Metrics) {
    let api: Api<PartialObjectMeta<v1::Pod>> = Api::namespaced(client, &pod.namespace);
    let patch = json!({"metadata": {"annotations": {marks::CONFIG: value}}});
    let params = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
    metrics.pokes.inc();
    match timeout(TOUCH, api.patch_metadata(&pod.name, &params, &Patch::Merge(&patch))).await {
        Ok(Ok(_)) => {}
        Ok(Err(kube::Error::Api(refused))) if refused.code == 404 => {}
        Ok(Err(error)) => failed(&metrics, &pod, &error.to_string()),
        Err(_) => failed(&metrics, &pod, "no answer"),
    }
}

/// Not tried again: the kubelet's own round brings the config all the same.
fn failed(metrics: &Metrics, pod: &Key, error: &str) {
    metrics.errors.get_or_create(&metrics::of("poke")).inc();
    debug!(%pod, error, "cannot touch a pod");
}

#[cfg(test)]
mod tests;
