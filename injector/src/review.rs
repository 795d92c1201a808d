//! `AdmissionReview` v1 in, `AdmissionReview` v1 out, as a pure function.
//!
//! What a request can know: it carries the namespace's name and the raw pod, but not the namespace's labels, and the
//! injector has no right to read namespaces. It needs none. The webhook has two entries, since selectors of one entry
//! are all required while namespace *or* pod may ask for the proxy, and each entry calls a path of its own: a request
//! at [`Entry::Namespace`] comes only from a namespace that is labelled, by the API server's own selection.
//!
//! A pod made by a controller has a `generateName` and no name yet, and its namespace stands only in the request.
//! A dry run is answered like any other request, as nothing is written anywhere.

use std::fmt;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::{
    annotations::{self, AnnotationError},
    decide::{Decision, Namespace, Reason, decide},
    patch,
    sidecar::{self, Proxy},
};

/// The one version of `AdmissionReview` that exists.
const API_VERSION: &str = "admission.k8s.io/v1";
/// Status code of a refusal: the object is understood and not acceptable.
const UNPROCESSABLE: u16 = 422;

/// Which of the webhook's two entries selected the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// By the namespace's label.
    Namespace,
    /// By the pod's own label, in a namespace without one.
    Pod,
}

/// What the injector knows of its installation.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The namespace it runs in, whose pods it leaves alone.
    pub own_namespace: String,
    /// The proxy it adds.
    pub proxy: Proxy,
}

/// The answer to one request.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The `AdmissionReview` to send back.
    pub review: Value,
    /// What was done, for metrics.
    pub outcome: Outcome,
    /// Namespace and name (or generated name's prefix) of the pod, for the log.
    pub pod: String,
}

/// What became of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It got the proxy.
    Injected,
    /// It was admitted as it is.
    Skipped(Reason),
    /// It was refused.
    Refused(Refusal),
}

/// Why a pod was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The pod itself stands against it.
    Pod(Reason),
    /// An annotation has a value that is not allowed.
    Annotation(String),
}

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ReviewError {
    /// The body is not an `AdmissionReview`.
    #[error("the body is not an AdmissionReview: {0}")]
    Malformed(#[from] serde_json::Error),
    /// Another version or kind.
    #[error("the body is {kind} of {api_version:?}, and this webhook answers AdmissionReview of {API_VERSION}")]
    Version {
        /// What came.
        kind: String,
        /// Its version.
        api_version: String,
    },
    /// Something that the webhook's rules do not send here.
    #[error("the request is to {0}, and this webhook answers the creation of pods: correct the webhook's rules")]
    Rules(String),
    /// A pod without metadata or spec.
    #[error("the pod has no {0}")]
    Incomplete(&'static str),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Review {
    api_version: String,
    kind: String,
    request: Request,
}

#[derive(Deserialize)]
struct Request {
    uid: String,
    operation: String,
    resource: Resource,
    #[serde(default)]
    namespace: String,
    object: Value,
}

#[derive(Deserialize)]
struct Resource {
    group: String,
    resource: String,
}

/// Answers one `AdmissionReview`.
pub fn review(body: &[u8], entry: Entry, config: &Config) -> Result<Answer, ReviewError> {
    let Review { api_version, kind, request } = serde_json::from_slice(body)?;
    if api_version != API_VERSION || kind != "AdmissionReview" {
        return Err(ReviewError::Version { kind, api_version });
    }
    let Resource { group, resource } = &request.resource;
    if request.operation != "CREATE" || !group.is_empty() || resource != "pods" {
        return Err(ReviewError::Rules(format!("{} {resource}.{group}", request.operation)));
    }
    for part in ["metadata", "spec"] {
        if !request.object[part].is_object() {
            return Err(ReviewError::Incomplete(part));
        }
    }
    let (after, outcome) = admit(&request, entry, config);
    let mut response = json!({"uid": request.uid, "allowed": true});
    if let Outcome::Refused(refusal) = &outcome {
        response["allowed"] = json!(false);
        response["status"] = json!({"code": UNPROCESSABLE, "reason": "Invalid", "message": refusal.to_string()});
    } else if let Some(patch) = patch::encoded(&request.object, &after)? {
        response["patchType"] = json!("JSONPatch");
        response["patch"] = json!(patch);
    }
    let warnings = annotations::warnings(&annotations_of(&request.object));
    if !warnings.is_empty() {
        response["warnings"] = json!(warnings);
    }
    let review = json!({"apiVersion": API_VERSION, "kind": "AdmissionReview", "response": response});
    Ok(Answer { review, outcome, pod: name(&request) })
}

/// The pod as it shall be, and what that amounts to.
fn admit(request: &Request, entry: Entry, config: &Config) -> (Value, Outcome) {
    let pod = &request.object;
    let namespace = Namespace { name: &request.namespace, enabled: entry == Entry::Namespace };
    let settings = || config.proxy.defaults.overridden(&annotations_of(pod));
    let changed = match decide(namespace, pod, &config.own_namespace) {
        Decision::Inject => {
            settings().map(|settings| (sidecar::injected(pod, &settings, &config.proxy), Outcome::Injected))
        }
        Decision::Skip(Reason::AlreadyInjected) => {
            settings().map(|settings| (sidecar::reinvoked(pod, &settings), Outcome::Skipped(Reason::AlreadyInjected)))
        }
        Decision::Skip(reason) => Ok((pod.clone(), Outcome::Skipped(reason))),
        Decision::Refuse(reason) => Ok((pod.clone(), Outcome::Refused(Refusal::Pod(reason)))),
    };
    changed.unwrap_or_else(|error: AnnotationError| {
        (pod.clone(), Outcome::Refused(Refusal::Annotation(error.to_string())))
    })
}

fn annotations_of(pod: &Value) -> Map<String, Value> {
    pod["metadata"]["annotations"].as_object().cloned().unwrap_or_default()
}

fn name(request: &Request) -> String {
    let metadata = &request.object["metadata"];
    let name = metadata["name"].as_str().or_else(|| metadata["generateName"].as_str()).unwrap_or_default();
    format!("{}/{name}", request.namespace)
}

impl Outcome {
    /// What was done and the reason's stable code (empty for an injected pod), for metrics.
    pub fn labels(&self) -> (&'static str, &'static str) {
        match self {
            Self::Injected => ("injected", ""),
            Self::Skipped(reason) => ("skipped", reason.code()),
            Self::Refused(Refusal::Pod(reason)) => ("refused", reason.code()),
            Self::Refused(Refusal::Annotation(_)) => ("refused", "annotation_invalid"),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod(reason) => write!(f, "{reason}"),
            Self::Annotation(problem) => f.write_str(problem),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
