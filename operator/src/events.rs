//! Events: what happened, told once, on the object that people look at.
//!
//! Only transitions are told, and a queue with a limit stands before the API server: an Event that cannot be told in time
//! is dropped, never waited for.

use firebreak_crds::{
    API_VERSION, marks,
    resources::{FaultSpecStatus, Phase, TrafficPolicyStatus, condition},
};
use firebreak_injector::decide::{self, Decision, Reason};
use k8s_openapi::{
    api::core::v1,
    apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta},
};
use kube::{
    Client,
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::{
    FIELD_MANAGER,
    index::{Key, Meta, Namespace, Owner},
    metrics::{self, Metrics},
    status::reason,
    watch::pod::{LeanPod, raw},
};

/// Events that may wait to be told.
const WAITING: usize = 256;

/// Something to tell, and about whom.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Notice {
    pub(crate) about: v1::ObjectReference,
    pub(crate) warning: bool,
    pub(crate) reason: String,
    pub(crate) note: String,
    pub(crate) action: &'static str,
}

/// A pod that was created, and why it has the proxy or not.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PodNotice {
    pub(crate) namespace: String,
    /// Whether the pod's own label asks for the proxy.
    pub(crate) wanted: bool,
    /// Its controller, or itself; told once for each reason.
    pub(crate) notice: Notice,
}

/// Tells Events, as long as there is room.
#[derive(Clone, Debug)]
pub(crate) struct Teller {
    notices: mpsc::Sender<Notice>,
    metrics: Metrics,
}

impl Teller {
    /// A teller, and the task that does the telling until `stop` is cancelled.
    pub(crate) fn new(
        client: Client,
        identity: &str,
        metrics: Metrics,
        stop: CancellationToken,
    ) -> (Self, impl Future<Output = ()> + use<>) {
        let (notices, mut waiting) = mpsc::channel::<Notice>(WAITING);
        let reporter = Reporter { controller: FIELD_MANAGER.into(), instance: Some(identity.to_owned()) };
        let recorder = Recorder::new(client, reporter);
        let counted = metrics.clone();
        let task = async move {
            while let Some(Some(notice)) = stop.run_until_cancelled(waiting.recv()).await {
                counted.writes.get_or_create(&metrics::of("Event")).inc();
                let event = Event {
                    type_: if notice.warning { EventType::Warning } else { EventType::Normal },
                    reason: notice.reason,
                    note: Some(notice.note.chars().take(1_000).collect()),
                    action: notice.action.into(),
                    secondary: None,
                };
                if let Err(error) = recorder.publish(&event, &notice.about).await {
                    counted.errors.get_or_create(&metrics::of("Event")).inc();
                    warn!(%error, "cannot write an Event");
                }
            }
        };
        (Self { notices, metrics }, task)
    }

    /// Tells `notice`, or drops it when too many wait.
    pub(crate) fn tell(&self, notice: Notice) {
        if self.notices.try_send(notice).is_err() {
            self.metrics.errors.get_or_create(&metrics::of("Event")).inc();
        }
    }
}

/// What became of a policy, if that is news.
pub(crate) fn policy(meta: &Meta, before: &TrafficPolicyStatus, after: &TrafficPolicyStatus) -> Option<Notice> {
    let accepted = changed(condition::ACCEPTED, &before.conditions, &after.conditions)?;
    Some(judged(reference("TrafficPolicy", meta), accepted))
}

/// What became of a fault, if that is news: each phase is told when it is reached.
pub(crate) fn fault(meta: &Meta, before: &FaultSpecStatus, after: &FaultSpecStatus) -> Option<Notice> {
    let phase = after.phase.filter(|phase| before.phase != Some(*phase))?;
    let about = reference("FaultSpec", meta);
    let note = after.message.clone().unwrap_or_default();
    let told = |warning, reason: &str| {
        Some(Notice { about: about.clone(), warning, reason: reason.into(), note: note.clone(), action: "Judge" })
    };
    match phase {
        Phase::Pending => None,
        Phase::Running => told(false, "Started"),
        Phase::Completed => told(false, reason::COMPLETED),
        Phase::Suspended => told(false, reason::SUSPENDED),
        Phase::Refused => Some(judged(about, after.conditions.iter().find(|it| it.type_ == condition::ACCEPTED)?)),
    }
}

/// Something that happened to a namespace's config.
pub(crate) fn namespace(namespace: &Namespace, warning: bool, reason: &str, note: impl Into<String>) -> Notice {
    let about = v1::ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Namespace".into()),
        name: Some(namespace.key.name.clone()),
        uid: Some(namespace.uid.clone()),
        ..v1::ObjectReference::default()
    };
    Notice { about, warning, reason: reason.into(), note: note.into(), action: "Publish" }
}

impl PodNotice {
    /// What there is to tell about `pod`, supposing that its namespace is enabled; nothing for those never meant.
    pub(crate) fn about(pod: &LeanPod, own_namespace: &str) -> Option<Self> {
        let name = pod.metadata.namespace.as_deref()?;
        let decision = decide::decide(decide::Namespace { name, enabled: true }, &raw(pod), own_namespace);
        let (warning, reason, note) = told(decision)?;
        let label = pod.metadata.labels.as_ref().and_then(|labels| labels.get(marks::INJECT));
        let owner = Owner::of(&pod.metadata);
        let note = match &owner {
            Some(_) => format!("pod {}: {note}", pod.metadata.name.as_deref().unwrap_or_default()),
            None => note,
        };
        let about = owner.map_or_else(|| itself(&pod.metadata), |owner| controller(owner, name));
        Some(Self {
            namespace: name.to_owned(),
            wanted: label.is_some_and(|value| value == marks::ENABLED),
            notice: Notice { about, warning, reason: reason.into(), note, action: "Inject" },
        })
    }
}

/// Whether to warn, the Event's reason and its text.
fn told(decision: Decision) -> Option<(bool, &'static str, String)> {
    match decision {
        Decision::Skip(Reason::AlreadyInjected) => Some((false, "Injected", "the pod runs with the proxy".into())),
        Decision::Skip(Reason::SystemNamespace | Reason::OwnNamespace | Reason::NamespaceNotEnabled) => None,
        Decision::Skip(reason) => Some((false, "InjectionSkipped", coded(reason))),
        Decision::Refuse(reason) => Some((true, "InjectionRefused", coded(reason))),
        Decision::Inject => {
            let note = "the pod runs without the proxy: it was created before its namespace was labelled, or while the \
                        injector could not be reached; restart it";
            Some((true, "NotInjected", note.into()))
        }
    }
}

fn coded(reason: Reason) -> String {
    format!("{reason} ({})", reason.code())
}

fn controller(owner: Owner, namespace: &str) -> v1::ObjectReference {
    v1::ObjectReference {
        api_version: Some(owner.api_version),
        kind: Some(owner.kind),
        name: Some(owner.name),
        namespace: Some(namespace.to_owned()),
        uid: Some(owner.uid),
        ..v1::ObjectReference::default()
    }
}

fn itself(meta: &ObjectMeta) -> v1::ObjectReference {
    let Key { namespace, name } = Key::of(meta);
    v1::ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Pod".into()),
        name: Some(name),
        namespace: Some(namespace),
        uid: meta.uid.clone(),
        ..v1::ObjectReference::default()
    }
}

fn reference(kind: &str, meta: &Meta) -> v1::ObjectReference {
    v1::ObjectReference {
        api_version: Some(API_VERSION.into()),
        kind: Some(kind.into()),
        name: Some(meta.key.name.clone()),
        namespace: Some(meta.key.namespace.clone()),
        uid: Some(meta.uid.clone()),
        ..v1::ObjectReference::default()
    }
}

fn judged(about: v1::ObjectReference, accepted: &Condition) -> Notice {
    let (warning, reason) = (accepted.status != "True", accepted.reason.clone());
    Notice { about, warning, reason, note: accepted.message.clone(), action: "Judge" }
}

/// The condition of that type, if its status or reason differs.
fn changed<'a>(type_: &str, before: &[Condition], after: &'a [Condition]) -> Option<&'a Condition> {
    let now = after.iter().find(|it| it.type_ == type_)?;
    let same = |old: &Condition| old.type_ == type_ && (&old.status, &old.reason) == (&now.status, &now.reason);
    (!before.iter().any(same)).then_some(now)
}

#[cfg(test)]
mod tests;
