//! Pods: which of them carry the proxy, and whom to tell when one does not.

use std::collections::BTreeMap;

use firebreak_crds::{marks, spec::Labels};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{Affected, Filed, Key, Store, Update};

/// What is asked of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pod {
    /// Namespace and name.
    pub key: Key,
    /// It carries the proxy.
    pub injected: bool,
    /// Its own label asks for the proxy.
    pub wanted: bool,
    /// Its containers may still run: it is neither finished nor being deleted.
    pub running: bool,
    /// When it was created.
    pub created: Timestamp,
    /// What it was last touched with after a change of its config.
    pub config: Option<String>,
    /// Where it listens, where it has the proxy and gives its ports names.
    pub listens: Option<Box<Listens>>,
}

/// Pods that have the same labels and the same ports with names are one to whoever looks for either.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listens {
    /// The pod's labels.
    pub labels: Labels,
    /// Its ports, with their names.
    pub ports: Vec<(String, u16)>,
}

/// The controller of a pod, for Events that outlive the pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// `apiVersion` of the controller.
    pub api_version: String,
    /// Kind of the controller: `ReplicaSet`, `DaemonSet`, `Job`.
    pub kind: String,
    /// Name of the controller, in the pod's namespace.
    pub name: String,
    /// Uid of the controller.
    pub uid: String,
}

/// All pods, and how many in each namespace carry the proxy or ask for it.
#[derive(Clone, Debug, Default)]
pub struct Pods {
    store: Store<Pod>,
    carriers: BTreeMap<String, usize>,
    listening: BTreeMap<String, BTreeMap<Listens, usize>>,
}

impl Pods {
    /// Whether a pod in the namespace carries the proxy or asks for it.
    pub fn carries(&self, namespace: &str) -> bool {
        self.carriers.contains_key(namespace)
    }

    /// The pods of the namespace whose proxies may be running.
    pub fn proxies(&self, namespace: &str) -> impl Iterator<Item = &Pod> {
        self.store.within(namespace).filter(|pod| pod.injected && pod.running)
    }

    /// The ports that pods of the namespace with these labels call `name`, in order.
    pub fn ports_named(&self, namespace: &str, selector: &Labels, name: &str) -> Vec<u16> {
        let all = self.listening.get(namespace).into_iter().flat_map(BTreeMap::keys);
        let theirs = all.filter(|it| selector.iter().all(|(key, value)| it.labels.get(key) == Some(value)));
        let mut ports: Vec<_> =
            theirs.flat_map(|it| &it.ports).filter(|(named, _)| named == name).map(|(_, port)| *port).collect();
        ports.sort_unstable();
        ports.dedup();
        ports
    }

    /// How many pods there are.
    pub fn len(&self) -> usize {
        self.store.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.store.is_empty()
    }

    /// Files the news; only the first and the last carrier of a namespace affect anything, and the first and the last that listen
    /// where they do.
    pub(super) fn update(&mut self, update: Update<Pod>) -> Affected {
        let (carriers, listening) = (&mut self.carriers, &mut self.listening);
        self.store.update(update, |before, after| {
            let namespace = before.or(after).map(|pod| pod.key.namespace.clone()).unwrap_or_default();
            let carried = carriers.contains_key(&namespace);
            let count = carriers.entry(namespace.clone()).or_default();
            *count += usize::from(after.is_some_and(Pod::carrier));
            *count -= usize::from(before.is_some_and(Pod::carrier));
            if *count == 0 {
                carriers.remove(&namespace);
            }
            let changed = carried != carriers.contains_key(&namespace);
            let moved = listen(listening.entry(namespace.clone()).or_default(), before, after);
            if changed || moved { Affected::by_enabling(namespace) } else { Affected::default() }
        })
    }
}

/// Counts who listens where; whether somebody is the first or was the last.
fn listen(listening: &mut BTreeMap<Listens, usize>, before: Option<&Pod>, after: Option<&Pod>) -> bool {
    let [was, is] = [before, after].map(|pod| pod.and_then(|pod| pod.listens.as_deref()));
    if was == is {
        return false;
    }
    let mut moved = false;
    if let Some(is) = is {
        let count = listening.entry(is.clone()).or_default();
        *count += 1;
        moved |= *count == 1;
    }
    if let Some(count) = was.and_then(|was| listening.get_mut(was)) {
        *count -= 1;
        moved |= *count == 0;
    }
    listening.retain(|_, count| *count > 0);
    moved
}

impl Pod {
    /// The pod with that metadata, in `phase`.
    pub fn new(meta: &ObjectMeta, phase: &str) -> Self {
        let annotation = |name: &str| meta.annotations.as_ref().and_then(|them| them.get(name));
        let label = meta.labels.as_ref().and_then(|them| them.get(marks::INJECT));
        Self {
            key: Key::of(meta),
            injected: annotation(marks::INJECTED).is_some(),
            wanted: label.is_some_and(|value| value == marks::ENABLED),
            running: !matches!(phase, "Succeeded" | "Failed") && meta.deletion_timestamp.is_none(),
            created: meta.creation_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0),
            config: annotation(marks::CONFIG).cloned(),
            listens: None,
        }
    }

    /// The pod with the labels of that metadata and these ports with names: kept where it has the proxy.
    #[must_use]
    pub fn with_ports(self, meta: &ObjectMeta, ports: Vec<(String, u16)>) -> Self {
        let labels = || meta.labels.clone().unwrap_or_default();
        let listens = (self.injected && self.running && !ports.is_empty()).then(|| Listens { labels: labels(), ports });
        Self { listens: listens.map(Box::new), ..self }
    }

    fn carrier(&self) -> bool {
        self.injected || self.wanted
    }
}

impl Owner {
    /// The controller of the pod with that metadata, if it has one.
    pub fn of(meta: &ObjectMeta) -> Option<Self> {
        let owners = meta.owner_references.as_ref()?;
        let owner = owners.iter().find(|owner| owner.controller == Some(true))?;
        Some(Self {
            api_version: owner.api_version.clone(),
            kind: owner.kind.clone(),
            name: owner.name.clone(),
            uid: owner.uid.clone(),
        })
    }
}

impl Filed for Pod {
    fn key(&self) -> &Key {
        &self.key
    }
}
