//! One turn: whatever is due is compared with what is there, and what differs is handed to a writer.

use firebreak_crds::{
    resources::{FaultSpec, TrafficPolicy},
    wire::Config,
};
use jiff::Timestamp;
use tokio::time::Instant;
use tracing::{info, warn};

use super::{Control, Item, Judged, Outcome};
use crate::{
    affected::{Affected, Touched},
    events, metrics,
    publish::{self, Effect, configmap},
    render::{Options, render},
    spared,
    status::{Judge, Problem, reason},
};

impl Control {
    /// Does what is due now.
    pub(super) fn turn(&mut self) {
        self.state.gathered = None;
        if !self.leads() {
            return;
        }
        let (now, options) = (Instant::now(), Options::cluster(&*self.own_namespace, Timestamp::now()));
        let ended = Affected::by_time(&self.state.world, self.state.ended, options.now);
        self.state.ended = options.now;
        self.affect(ended);
        for namespace in self.state.configs.take(now) {
            if !self.config(&namespace, &options) {
                self.state.configs.done(&namespace, true, now);
            }
        }
        if !self.state.configs.moving() {
            self.judge(now, &options);
        }
        self.poke(now);
        self.count();
    }

    /// Compares the config of `namespace` with its `ConfigMap`. Whether a write has begun.
    fn config(&mut self, namespace: &str, options: &Options) -> bool {
        let item = Item::Config(namespace.to_owned());
        if self.state.awaited.contains(&item) {
            return false;
        }
        let state = &self.state;
        let held = state.config_maps.get(&configmap::key(namespace));
        if !state.world.enabled(namespace) || spared(namespace, &self.own_namespace) {
            let leftover = held.is_some_and(|held| held.ours)
                && state.world.namespace(namespace).is_some_and(|namespace| !namespace.terminating);
            if leftover {
                self.delete(namespace, item);
            }
            return leftover;
        }
        self.metrics.renders.inc();
        let config = render(&state.world, namespace, options);
        let (document, revision) = match config.encode() {
            Ok(encoded) => encoded,
            Err(error) => {
                warn!(namespace, %error, "cannot encode the config");
                return false;
            }
        };
        if held.is_some_and(|held| held.ours && held.revision == revision) {
            self.metrics.skipped.get_or_create(&metrics::of("ConfigMap")).inc();
            self.unchanged(namespace, &config, &revision);
            return false;
        }
        if document.len() > configmap::LIMIT {
            self.too_large(namespace, document.len());
            return false;
        }
        let notice = self.break_glass(namespace, held.is_some_and(|held| held.transparent), config.transparent);
        let (client, name) = (self.client.clone(), namespace.to_owned());
        let before = held.map_or_else(String::new, |held| held.version().to_owned());
        self.write(item, Some((Box::new(config), revision)), notice, async move {
            configmap::apply(client, &name, &document, &before).await
        });
        true
    }

    fn delete(&mut self, namespace: &str, item: Item) {
        info!(namespace, "no pod carries the proxy any more: deleting its config");
        let (client, name) = (self.client.clone(), namespace.to_owned());
        self.write(item, None, None, async move { configmap::delete(client, &name).await });
    }

    fn unchanged(&mut self, namespace: &str, config: &Config, revision: &str) {
        if self.state.published.wrote(namespace, config) {
            self.state.rounds.found(namespace, revision, Instant::now());
            self.affect(Affected { configs: Touched::default(), ..Affected::everything() });
        }
    }

    fn too_large(&mut self, namespace: &str, bytes: usize) {
        let problem = Problem::TooLarge { bytes, limit: configmap::LIMIT };
        let note = problem.to_string();
        if self.state.published.failed(namespace, problem) {
            warn!(namespace, bytes, "the config does not fit into a ConfigMap");
            if let Some(namespace) = self.state.world.namespace(namespace) {
                self.teller.tell(events::namespace(namespace, true, reason::CONFIG_TOO_LARGE, note));
            }
            self.affect(Affected { configs: Touched::default(), ..Affected::everything() });
        }
    }

    fn break_glass(&self, namespace: &str, before: bool, after: bool) -> Option<events::Notice> {
        let namespace = self.state.world.namespace(namespace).filter(|_| before != after)?;
        Some(if after {
            events::namespace(namespace, true, "BreakGlassOn", "proxies forward everything and protect nothing")
        } else {
            events::namespace(namespace, false, "BreakGlassOff", "proxies protect again")
        })
    }

    /// Compares the statuses that are due with what they should be.
    fn judge(&mut self, now: Instant, options: &Options) {
        let due = self.state.statuses.take(now);
        if due.is_empty() {
            return;
        }
        let judge = Judge::new(&self.state.world, &self.state.published, options);
        let mut writes = Vec::new();
        for judged in due {
            let awaited = self.state.awaited.contains(&Item::Status(judged.clone()));
            match Some(&judged).filter(|_| !awaited).and_then(|judged| self.verdict(judged, &judge)) {
                Some(write) => writes.push((judged, write)),
                None => {
                    self.metrics.skipped.get_or_create(&metrics::of(Item::Status(judged.clone()).kind())).inc();
                    self.state.statuses.done(&judged, true, now);
                }
            }
        }
        for (judged, (notice, write)) in writes {
            self.write(Item::Status(judged), None, notice, write);
        }
    }

    /// The write that brings the status in order, if it is not.
    fn verdict(&self, judged: &Judged, judge: &Judge<'_>) -> Option<(Option<events::Notice>, Write)> {
        let client = self.client.clone();
        match judged {
            Judged::Policy(key) => {
                let policy = self.state.world.policies.get(key)?;
                let status = judge.policy(policy);
                if status == policy.status {
                    return None;
                }
                let (meta, notice) = (policy.meta.clone(), events::policy(&policy.meta, &policy.status, &status));
                let write = async move { publish::status::apply::<TrafficPolicy>(client, &meta, &status).await };
                Some((notice, Box::pin(write)))
            }
            Judged::Fault(key) => {
                let fault = self.state.world.faults.get(key)?;
                let status = judge.fault(fault);
                if status == fault.status {
                    return None;
                }
                let (meta, notice) = (fault.meta.clone(), events::fault(&fault.meta, &fault.status, &status));
                let write = async move { publish::status::apply::<FaultSpec>(client, &meta, &status).await };
                Some((notice, Box::pin(write)))
            }
        }
    }

    fn write(
        &mut self,
        item: Item,
        config: Option<(Box<Config>, String)>,
        notice: Option<events::Notice>,
        write: impl Future<Output = Result<Effect, publish::Error>> + Send + 'static,
    ) {
        self.metrics.writes.get_or_create(&metrics::of(item.kind())).inc();
        self.state.awaited.insert(item.clone());
        self.state.writes.spawn(async move { Outcome { item, result: write.await, config, notice } });
    }

    fn poke(&mut self, now: Instant) {
        let Some(pokes) = &self.pokes else { return self.state.rounds.clear() };
        let state = &mut self.state;
        for touch in state.rounds.take(now) {
            let written = state.config_maps.get(&configmap::key(&touch.namespace)).and_then(|held| held.written);
            let pods = state.world.pods.proxies(&touch.namespace);
            for pod in pods.filter(|pod| touch.wants(pod, written)) {
                // The poker ends with the process only.
                let _ = pokes.send((pod.key.clone(), touch.value.clone()));
            }
        }
    }

    fn count(&self) {
        let world = &self.state.world;
        let broken = |found: usize| i64::try_from(found).unwrap_or(i64::MAX);
        let objects = [
            ("Namespace", world.namespaces.len()),
            ("Service", world.services.len()),
            ("Pod", world.pods.len()),
            ("TrafficPolicy", world.policies.len()),
            ("FaultSpec", world.faults.len()),
            ("ConfigMap", self.state.config_maps.len()),
        ];
        for (kind, count) in objects {
            self.metrics.objects.get_or_create(&metrics::of(kind)).set(broken(count));
        }
        let policies = world.policies.iter().filter(|it| it.spec.is_err()).count();
        let faults = world.faults.iter().filter(|it| it.spec.is_err()).count();
        self.metrics.invalid.get_or_create(&metrics::of("TrafficPolicy")).set(broken(policies));
        self.metrics.invalid.get_or_create(&metrics::of("FaultSpec")).set(broken(faults));
    }
}

type Write = std::pin::Pin<Box<dyn Future<Output = Result<Effect, publish::Error>> + Send>>;
