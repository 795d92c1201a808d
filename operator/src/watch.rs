//! The watches: what the API server says, trimmed and handed on. Only wiring; nothing is decided here.
//!
//! Lists come in pages and watches with bookmarks, so memory holds one page of full objects at a time. Our own kinds are
//! watched as untyped objects: one that does not parse is a matter for its status, not for the watch.

pub(crate) mod pod;

use std::{fmt::Debug, sync::Arc};

use firebreak_crds::{
    marks,
    resources::{FaultSpec, TrafficPolicy},
};
use futures::{StreamExt, pin_mut};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1;
use kube::{
    Api, Client, Resource, ResourceExt,
    api::DynamicObject,
    core::ApiResource,
    runtime::{WatchStreamExt, watcher},
};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, warn};

use self::pod::{LeanPod, named_ports};
use crate::{
    events::PodNotice,
    index::{Event, Fault, Filed, Key, Namespace, Pod, Policy, Service, Update},
    metrics::{self, Metrics},
    publish::configmap,
};

/// What the control task is told.
#[derive(Debug)]
pub(crate) enum News {
    /// The world changed.
    World(Box<Event>),
    /// A `ConfigMap` of a config changed.
    ConfigMap(Update<configmap::Held>),
    /// A pod was created, with or without the proxy.
    Pod(Box<PodNotice>),
}

/// How many kinds must have told all they know before anything may be written.
pub(crate) const KINDS: usize = 6;

/// Objects that are in memory whole at a time, while a list is read.
const PAGE: u32 = 250;

/// How young a pod is that is worth an Event: older ones were told about, or nobody looks any more.
const YOUNG: SignedDuration = SignedDuration::from_secs(120);

/// What every watch needs.
#[derive(Clone)]
pub(crate) struct Watches {
    pub(crate) client: Client,
    pub(crate) own_namespace: Arc<str>,
    pub(crate) metrics: Metrics,
    pub(crate) news: mpsc::Sender<News>,
    pub(crate) stop: CancellationToken,
}

impl Watches {
    /// Starts them all.
    pub(crate) fn start(&self, tasks: &TaskTracker) {
        let client = &self.client;
        let cluster = |update| News::World(Box::new(Event::Namespace(update)));
        self.feed(tasks, "Namespace", Api::all(client.clone()), |it: v1::Namespace| Some(Namespace::from(it)), cluster);
        let services = |update| News::World(Box::new(Event::Service(update)));
        self.feed(tasks, "Service", Api::all(client.clone()), |it: v1::Service| Some(Service::from(it)), services);
        self.feed_pods(tasks);
        let policies = Api::all_with(client.clone(), &ApiResource::erase::<TrafficPolicy>(&()));
        let policy = |update| News::World(Box::new(Event::Policy(update)));
        self.feed(tasks, "TrafficPolicy", policies, |it| read(it, Policy::from_json), policy);
        let faults = Api::all_with(client.clone(), &ApiResource::erase::<FaultSpec>(&()));
        let fault = |update| News::World(Box::new(Event::Fault(update)));
        self.feed(tasks, "FaultSpec", faults, |it| read(it, Fault::from_json), fault);
        let config_maps: Api<v1::ConfigMap> = Api::all(client.clone());
        self.feed(tasks, "ConfigMap", config_maps, |it| Some(configmap::Held::from(it)), News::ConfigMap);
    }

    fn feed_pods(&self, tasks: &TaskTracker) {
        let (news, own) = (self.news.clone(), self.own_namespace.clone());
        let pods = Api::all_with(self.client.clone(), &ApiResource::erase::<v1::Pod>(&()));
        let trim = move |pod: LeanPod| {
            let phase = pod.status.as_ref().map_or("", |status| status.phase.as_str());
            let trimmed = Pod::new(&pod.metadata, phase).with_ports(&pod.metadata, named_ports(&pod));
            if trimmed.running
                && Timestamp::now().duration_since(trimmed.created) < YOUNG
                && let Some(notice) = PodNotice::about(&pod, &own)
            {
                // An Event is worth less than the watch: when the control task is behind, it is dropped.
                let _ = news.try_send(News::Pod(Box::new(notice)));
            }
            Some(trimmed)
        };
        self.feed(tasks, "Pod", pods, trim, |update| News::World(Box::new(Event::Pod(update))));
    }

    /// Watches objects of `kind`, trims each, and hands on what it became.
    fn feed<K, T>(
        &self,
        tasks: &TaskTracker,
        kind: &'static str,
        api: Api<K>,
        trim: impl Fn(K) -> Option<T> + Send + 'static,
        news: impl Fn(Update<T>) -> News + Send + 'static,
    ) where
        K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
        T: Filed + Send + 'static,
    {
        let this = self.clone();
        let config = match kind {
            // Only these are ours; RBAC grants no others.
            "ConfigMap" => watcher::Config::default().fields(&format!("metadata.name={}", marks::CONFIG_MAP)),
            _ => watcher::Config::default(),
        };
        tasks.spawn(async move {
            let stop = this.stop.clone();
            tokio::select! {
                () = stop.cancelled() => {}
                () = this.follow(kind, watcher(api, config.page_size(PAGE)), trim, news) => {}
            }
        });
    }

    async fn follow<K, T>(
        &self,
        kind: &'static str,
        events: impl futures::Stream<Item = watcher::Result<watcher::Event<K>>> + Send,
        trim: impl Fn(K) -> Option<T>,
        news: impl Fn(Update<T>) -> News,
    ) where
        K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
        T: Filed,
    {
        let events = events.default_backoff();
        pin_mut!(events);
        let mut listed = Vec::new();
        while let Some(event) = events.next().await {
            let update = match event {
                Ok(watcher::Event::Apply(object)) => trim(object).map(Update::Apply),
                Ok(watcher::Event::Delete(object)) => Some(Update::Delete(key(&object))),
                Ok(watcher::Event::Init) => {
                    listed.clear();
                    None
                }
                Ok(watcher::Event::InitApply(object)) => {
                    listed.extend(trim(object));
                    None
                }
                Ok(watcher::Event::InitDone) => {
                    debug!(kind, objects = listed.len(), "listed");
                    Some(Update::Reset(std::mem::take(&mut listed)))
                }
                Err(error) => {
                    self.metrics.watch_errors.get_or_create(&metrics::of(kind)).inc();
                    warn!(kind, %error, "watch");
                    None
                }
            };
            if let Some(update) = update
                && self.news.send(news(update)).await.is_err()
            {
                return;
            }
        }
    }
}

fn read<T, E: std::fmt::Display>(object: DynamicObject, from: impl Fn(serde_json::Value) -> Result<T, E>) -> Option<T> {
    let key = key(&object);
    let value = serde_json::to_value(object).map_err(|error| error.to_string());
    let read = value.and_then(|value| from(value).map_err(|error| error.to_string()));
    read.inspect_err(|error| warn!(object = %key, error, "skipped")).ok()
}

fn key<K: Resource>(object: &K) -> Key {
    Key::new(object.namespace().unwrap_or_default(), object.name_any())
}
