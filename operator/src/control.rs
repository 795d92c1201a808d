//! The control task: it alone owns the world, decides what differs, and has it written.
//!
//! ```text
//! watches ──news──► world ──affected──► queues ──a turn──► render, judge, compare ──► writers ──outcome──► queues
//! ```
//!
//! News is taken in as it comes; a turn follows a few milliseconds later, so that a burst is one turn. Every replica does
//! all of this; only the holder of the lease takes turns. A replica that takes over looks at everything once and writes what
//! differs; one that loses the lease drops its writes where they stand.
//!
//! After a write the item rests until the watch has shown it (`awaited`): what was decided from an older view must not be
//! written over a newer one. A write that changed nothing is shown by nobody, and there is no newer view: nothing is awaited.

mod turn;

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc, time::Duration};

use firebreak_crds::wire::Config;
use jiff::Timestamp;
use kube::Client;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::{
    affected::{Affected, Touched},
    events::{PodNotice, Teller},
    index::{Event, Filed, Key, Store, Update, World},
    lease::Held,
    metrics::{self, Metrics},
    poke::Rounds,
    publish::{self, Effect, configmap},
    queue::Queue,
    spared,
    status::{Problem, Published, next_end},
    watch::{KINDS, News},
};

/// How long news gathers before a turn: long enough for a burst of one `kubectl apply`, short beside what follows.
const GATHER: Duration = Duration::from_millis(5);
/// Writes of one sort at once. The API server's own fairness takes it from there.
const AT_ONCE: usize = 16;
/// How many Events about pods are remembered as told.
const TOLD: usize = 10_000;

/// A policy or a fault.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Judged {
    // Faults first: theirs is the clock.
    Fault(Key),
    Policy(Key),
}

/// What is decided from the world and awaits its echo.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Item {
    Config(String),
    Status(Judged),
}

/// How a write ended.
struct Outcome {
    item: Item,
    result: Result<Effect, publish::Error>,
    /// The config that was written; none for a deletion and for statuses.
    config: Option<(Box<Config>, String)>,
    /// What is told if it went well.
    notice: Option<crate::events::Notice>,
}

/// What the control task works with.
pub(crate) struct Control {
    pub(crate) client: Client,
    pub(crate) own_namespace: Arc<str>,
    pub(crate) held: Held,
    pub(crate) teller: Teller,
    pub(crate) pokes: Option<mpsc::UnboundedSender<(Key, String)>>,
    /// Is told once that the world is known, and where the injector's Service is.
    pub(crate) known: Option<oneshot::Sender<Option<SocketAddr>>>,
    /// The injector's Service.
    pub(crate) injector: Key,
    pub(crate) metrics: Metrics,
    pub(crate) state: State,
}

/// What it knows and has begun.
pub(crate) struct State {
    world: World,
    config_maps: Store<configmap::Held>,
    published: Published,
    listed: BTreeSet<&'static str>,
    configs: Queue<String>,
    statuses: Queue<Judged>,
    awaited: BTreeSet<Item>,
    writes: JoinSet<Outcome>,
    rounds: Rounds,
    /// Ends of faults up to this moment have been dealt with.
    ended: Timestamp,
    /// When the gathered news is due.
    gathered: Option<Instant>,
    told: BTreeSet<(String, String)>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            world: World::default(),
            config_maps: Store::default(),
            published: Published::default(),
            listed: BTreeSet::new(),
            configs: Queue::new(AT_ONCE),
            statuses: Queue::new(AT_ONCE),
            awaited: BTreeSet::new(),
            writes: JoinSet::new(),
            rounds: Rounds::default(),
            ended: Timestamp::now(),
            gathered: None,
            told: BTreeSet::new(),
        }
    }
}

impl Control {
    /// Runs until `stop` is cancelled or no more news can come.
    pub(crate) async fn run(mut self, mut news: mpsc::Receiver<News>, stop: CancellationToken) {
        let mut batch = Vec::new();
        loop {
            let wake = self.wake();
            tokio::select! {
                () = stop.cancelled() => return,
                held = self.held.changed() => self.lease(held),
                count = news.recv_many(&mut batch, 1_024) => {
                    if count == 0 {
                        return;
                    }
                    batch.drain(..).for_each(|news| self.take_in(news));
                }
                Some(outcome) = self.state.writes.join_next() => match outcome {
                    Ok(outcome) => self.settle(outcome),
                    Err(error) => warn!(%error, "a writer ended before its time"),
                },
                () = sleep_until(wake) => self.turn(),
            }
        }
    }

    /// Whether this replica decides: it holds the lease and knows the whole world.
    fn leads(&self) -> bool {
        self.held.now() && self.state.listed.len() == KINDS
    }

    /// When the next turn is due by itself.
    fn wake(&self) -> Instant {
        let (state, now) = (&self.state, Instant::now());
        let idle = now + Duration::from_hours(1);
        if !self.leads() {
            return idle;
        }
        let end = next_end(&state.world, state.ended).map(|end| {
            let left = end.duration_since(Timestamp::now());
            now + Duration::try_from(left).unwrap_or_default()
        });
        // A status waits while configs move, and their outcomes bring the next turn.
        let statuses = state.statuses.next().filter(|_| !state.configs.moving());
        let due = [state.gathered, state.configs.next(), statuses, state.rounds.next(), end];
        due.into_iter().flatten().min().unwrap_or(idle)
    }

    fn lease(&mut self, held: bool) {
        let state = &mut self.state;
        state.configs.clear();
        state.statuses.clear();
        state.rounds.clear();
        state.awaited.clear();
        state.writes = JoinSet::new();
        state.published = Published::default();
        if held {
            self.affect(Affected::everything());
        }
    }

    fn take_in(&mut self, news: News) {
        match news {
            News::World(event) => self.world_changed(*event),
            News::ConfigMap(update) => self.config_maps_changed(update),
            News::Pod(notice) => self.pod_created(*notice),
        }
    }

    fn world_changed(&mut self, event: Event) {
        match &event {
            Event::Namespace(Update::Reset(_)) => self.listed("Namespace"),
            Event::Service(Update::Reset(_)) => self.listed("Service"),
            Event::Pod(Update::Reset(_)) => self.listed("Pod"),
            Event::Policy(update) => self.echoed("TrafficPolicy", update, Judged::Policy),
            Event::Fault(update) => self.echoed("FaultSpec", update, Judged::Fault),
            _ => {}
        }
        let affected = self.state.world.apply(event);
        self.affect(affected);
    }

    /// The watch has shown an object, so it may be written again.
    fn echoed<T: Filed>(&mut self, kind: &'static str, update: &Update<T>, item: impl Fn(Key) -> Judged) {
        let echo = |key: &Key| Item::Status(item(key.clone()));
        match update {
            Update::Apply(object) => drop(self.state.awaited.remove(&echo(object.key()))),
            Update::Delete(key) => drop(self.state.awaited.remove(&echo(key))),
            Update::Reset(_) => {
                self.state.awaited.clear();
                self.listed(kind);
            }
        }
    }

    fn config_maps_changed(&mut self, update: Update<configmap::Held>) {
        match &update {
            Update::Apply(held) => drop(self.state.awaited.remove(&Item::Config(held.key().namespace.clone()))),
            Update::Delete(key) => drop(self.state.awaited.remove(&Item::Config(key.namespace.clone()))),
            Update::Reset(_) => {
                self.state.awaited.clear();
                self.listed("ConfigMap");
            }
        }
        let affected = self.state.config_maps.update(update, |before, after| {
            before.or(after).map_or_else(Affected::default, |held| Affected::config(held.key().namespace.clone()))
        });
        self.affect(affected);
    }

    /// The objects of `kind` are known in full.
    fn listed(&mut self, kind: &'static str) {
        if self.state.listed.insert(kind) && self.state.listed.len() == KINDS {
            info!("the world is known");
            if let Some(known) = self.known.take() {
                // Without anybody who waits for it, it is not needed.
                let _ = known.send(self.injector_address());
            }
            self.affect(Affected::everything());
        }
    }

    fn injector_address(&self) -> Option<SocketAddr> {
        let service = self.state.world.services.get(&self.injector)?;
        Some(SocketAddr::new(*service.addresses.first()?, service.ports.first()?.port))
    }

    /// Queues what is affected, if it is ours to write.
    fn affect(&mut self, affected: Affected) {
        if !self.leads() || affected.is_empty() {
            return;
        }
        let (state, now) = (&mut self.state, Instant::now());
        let namespaces = state.world.namespaces.iter().map(|namespace| namespace.key.name.clone());
        for namespace in affected.configs.resolve(namespaces) {
            state.configs.add(namespace, now);
        }
        let policies = affected.policies.resolve(state.world.policies.iter().map(|it| it.meta.key.clone()));
        for key in policies {
            state.statuses.add(Judged::Policy(key), now);
        }
        let faults = affected.faults.resolve(state.world.faults.iter().map(|it| it.meta.key.clone()));
        for key in faults {
            state.statuses.add(Judged::Fault(key), now);
        }
        state.gathered.get_or_insert(now + GATHER);
    }

    fn pod_created(&mut self, pod: PodNotice) {
        let Some(namespace) = self.state.world.namespace(&pod.namespace) else { return };
        let meant = (namespace.inject || pod.wanted) && !namespace.terminating;
        if !self.leads() || !meant || spared(&pod.namespace, &self.own_namespace) {
            return;
        }
        let told = &mut self.state.told;
        if told.len() >= TOLD {
            told.clear();
        }
        let about = (pod.notice.about.uid.clone().unwrap_or_default(), pod.notice.reason.clone());
        if told.insert(about) {
            self.teller.tell(pod.notice);
        }
    }

    fn settle(&mut self, outcome: Outcome) {
        let Outcome { item, result, config, notice } = outcome;
        let now = Instant::now();
        let well = match &result {
            Ok(Effect::Changed) => true,
            Ok(Effect::Nothing) => {
                self.state.awaited.remove(&item);
                true
            }
            Err(error) => {
                self.state.awaited.remove(&item);
                self.metrics.errors.get_or_create(&metrics::of(item.kind())).inc();
                if error.overtaken() {
                    debug!(?item, %error, "overtaken");
                } else {
                    warn!(?item, %error, "cannot write");
                }
                false
            }
        };
        match &item {
            Item::Config(namespace) => {
                self.state.configs.done(namespace, well, now);
                self.published(namespace, config, result);
            }
            Item::Status(judged) => self.state.statuses.done(judged, well, now),
        }
        if let Some(notice) = notice.filter(|_| well) {
            self.teller.tell(notice);
        }
    }

    /// The config of `namespace` was written, or was not: the statuses that speak of it follow.
    fn published(
        &mut self,
        namespace: &str,
        config: Option<(Box<Config>, String)>,
        result: Result<Effect, publish::Error>,
    ) {
        let state = &mut self.state;
        match (config, result) {
            (Some((config, revision)), Ok(effect)) => {
                let news = state.published.wrote(namespace, &config);
                if effect == Effect::Changed {
                    state.rounds.written(namespace, &revision, Instant::now());
                } else if !news {
                    return;
                }
            }
            (None, Ok(_)) => state.published.removed(namespace),
            (_, Err(error)) => drop(state.published.failed(namespace, Problem::Refused(error.to_string()))),
        }
        self.affect(Affected { configs: Touched::default(), ..Affected::everything() });
    }
}

impl Item {
    fn kind(&self) -> &'static str {
        match self {
            Self::Config(_) => "ConfigMap",
            Self::Status(Judged::Policy(_)) => "TrafficPolicy",
            Self::Status(Judged::Fault(_)) => "FaultSpec",
        }
    }
}

#[cfg(test)]
mod tests;
