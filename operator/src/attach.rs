//! Who wins: which policies apply to a port of a Service, for callers in one namespace, and in what order.
//!
//! The rules are those of GEP-713 with two levels of our own in front, as `docs/targets.md` tells users:
//!
//! 1. a policy of the callers' namespace (a consumer's) beats one of the Service's namespace (a producer's);
//! 2. Service port beats Service beats Namespace: the most specific wins whole, nothing is merged;
//! 3. with `from` beats without, since both may stand for different callers of one target;
//! 4. the older `creationTimestamp` wins, then the smaller `namespace/name`.
//!
//! Faults are ordered by the same rules. Only the first has anything to decide, since of one namespace no two are active at one
//! port: a consumer's and a producer's may be, and then the consumer's has the requests that it is for.
//!
//! Two policies of one namespace with the same target and the same `from` claim the same thing. The older has it, of two
//! of the same second the one whose name comes first, since Kubernetes keeps no finer time; the other is told so
//! ([`conflicts`]), and its other targets stay in force.
//!
//! Policies that are observed have the same order among themselves, beside those that are enforced.
//!
//! Namespace selectors are decided here, against the callers' namespace. Pod selectors travel to the proxies, which know
//! their own pod's labels.

use std::{collections::BTreeMap, fmt};

use firebreak_crds::spec::{Callers, LabelSelector, TargetKind, TargetRef};

use crate::index::{Invalid, Key, Meta, Namespace, Service, ServicePort};

/// Something that names targets and callers: a policy or a fault.
pub trait Attaches {
    /// Who it is.
    fn meta(&self) -> &Meta;
    /// What it is about; nothing if it does not parse.
    fn target_refs(&self) -> &[TargetRef];
    /// Whom it is for.
    fn from(&self) -> Option<&Callers>;

    /// Whether it only says what it would do: what is observed claims nothing of what is enforced.
    fn observes(&self) -> bool {
        false
    }

    /// Whether the callee's own proxies act on all of it, and the callers' on nothing.
    fn at_callee(&self) -> bool {
        false
    }

    /// Whether the callee's own proxies have something of it.
    fn has_inbound(&self) -> bool {
        self.at_callee()
    }

    /// Whether it is for all callers alike.
    fn for_everyone(&self) -> bool
    where
        Self: Sized,
    {
        callers(self).is_none()
    }

    /// Its namespace and name.
    fn id(&self) -> &Key {
        &self.meta().key
    }

    /// The targets, with the object's own namespace where a reference leaves it out.
    fn targets(&self) -> impl Iterator<Item = Target<'_>> {
        let own = self.meta().key.namespace.as_str();
        let refs = self.target_refs();
        // A Service may be named twice, once with its namespace spelt out: that is one target.
        (0..refs.len()).map(move |place| (place, Target::of(own, &refs[place]))).filter_map(move |(place, target)| {
            let again = refs[..place].iter().any(|earlier| Target::of(own, earlier) == target);
            (!again).then_some(target)
        })
    }

    /// Whether it is for callers in `caller`, as far as namespaces decide, through `target`; for what acts beside the callee,
    /// whether that is in `caller`.
    fn reaches(&self, target: &Target<'_>, caller: &Namespace) -> bool {
        let own = self.meta().key.namespace.as_str();
        if self.at_callee() {
            // The proxies that act are those of the Service's own namespace.
            return target.namespace == own && caller.key.name == own;
        }
        let spoken_for = target.namespace == own || caller.key.name == own;
        let selector = self.from().and_then(|from| from.namespace_selector.as_ref());
        spoken_for && selector.is_none_or(|selector| selector.matches(&caller.labels))
    }

    /// The pod selector that is left for the proxy to decide.
    fn pod_selector(&self) -> Option<&LabelSelector> {
        self.from()?.pod_selector.as_ref().filter(|selector| !everything(selector))
    }
}

/// What a reference points to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target<'a> {
    /// Namespace of the Service, or the Namespace itself.
    pub namespace: &'a str,
    /// Name of the Service; none means every Service of the namespace.
    pub service: Option<&'a str>,
    /// Name of one port; none means all ports.
    pub port: Option<&'a str>,
}

/// Everything of one kind that concerns the callers of one namespace, by target.
#[derive(Debug)]
pub struct Attached<'w, T> {
    namespaces: BTreeMap<&'w str, Claims<'w, T>>,
}

/// What is about one namespace: about the whole of it, and about Services by name.
#[derive(Debug)]
struct Claims<'w, T> {
    whole: Vec<(Rank<'w>, &'w T)>,
    named: BTreeMap<&'w str, Vec<(Rank<'w>, &'w T)>>,
}

/// The order of precedence, the strongest first: each field is compared before the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank<'w> {
    producer: bool,
    level: Level,
    everyone: bool,
    created: jiff::Timestamp,
    key: &'w Key,
    /// The port that is named, so that a rank is complete; all that meet at one port name the same.
    port: Option<&'w str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Port,
    Service,
    Namespace,
}

/// A claim that was lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The target, in words.
    pub target: String,
    /// Who has it.
    pub winner: Key,
    /// Whether the winner is older; if not, it was created in the same second and comes first by name.
    pub older: bool,
}

/// Where what an object has for the callee's own proxies has no effect, since a stronger one holds there whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Silenced {
    /// The stronger one's target, in words.
    pub target: String,
    /// The stronger one.
    pub by: Key,
}

impl<'w, T: Attaches> Attached<'w, T> {
    /// What of `objects` concerns callers in `caller`.
    pub fn to(caller: &Namespace, objects: impl Iterator<Item = &'w T>) -> Self {
        let mut namespaces: BTreeMap<&str, Claims<'_, T>> = BTreeMap::new();
        for object in objects {
            for target in object.targets().filter(|target| object.reaches(target, caller)) {
                let rank = Rank::of(object, &target);
                let claims = namespaces.entry(target.namespace).or_default();
                let claims = match target.service {
                    None => &mut claims.whole,
                    Some(service) => claims.named.entry(service).or_default(),
                };
                claims.push((rank, object));
            }
        }
        Self { namespaces }
    }

    /// Whether anything is about `service`, at whatever port.
    pub fn touches(&self, service: &Key) -> bool {
        self.candidates(service).next().is_some()
    }

    /// What is about that port, the strongest first. Of an identical claim only the winner is there.
    pub fn at(&self, service: &Key, port: &ServicePort) -> Vec<&'w T> {
        let fits = |rank: &Rank<'_>| rank.port.is_none_or(|name| port.name.as_deref() == Some(name));
        let mut found: Vec<_> = self.candidates(service).filter(|(rank, _)| fits(rank)).collect();
        found.sort_by_key(|(rank, _)| *rank);
        let mut kept: Vec<(Rank<'_>, &T)> = Vec::new();
        for (rank, object) in found {
            if !kept.iter().any(|(other, holder)| other.same_claim(rank) && same_callers(*holder, object)) {
                kept.push((*rank, object));
            }
        }
        kept.into_iter().map(|(_, object)| object).collect()
    }

    fn candidates(&self, service: &Key) -> impl Iterator<Item = &(Rank<'w>, &'w T)> {
        let claims = self.namespaces.get(service.namespace.as_str());
        claims
            .into_iter()
            .flat_map(|claims| claims.named.get(service.name.as_str()).into_iter().flatten().chain(&claims.whole))
    }
}

impl<T> Default for Claims<'_, T> {
    fn default() -> Self {
        Self { whole: Vec::new(), named: BTreeMap::new() }
    }
}

impl fmt::Display for Silenced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { target, by } = self;
        write!(
            f,
            "has no effect at {target}: TrafficPolicy {by} is stronger there and has no `inbound`, and nothing is merged; give it one too"
        )
    }
}

impl Conflict {
    /// The claim on `target` that `loser` lost to `winner`.
    pub(crate) fn new(target: &Target<'_>, loser: &Meta, winner: &Meta) -> Self {
        let older = winner.created < loser.created;
        Self { target: target.to_string(), winner: winner.key.clone(), older }
    }
}

impl<'w> Rank<'w> {
    fn of<T: Attaches>(object: &'w T, target: &Target<'w>) -> Self {
        let meta = object.meta();
        let level = Level::of(target);
        Self {
            producer: target.namespace == meta.key.namespace,
            level,
            everyone: callers(object).is_none(),
            created: meta.created,
            key: &meta.key,
            port: target.port,
        }
    }

    fn same_claim(&self, other: &Self) -> bool {
        (self.producer, self.level) == (other.producer, other.level)
    }
}

impl Level {
    fn of(target: &Target<'_>) -> Self {
        match (target.service, target.port) {
            (None, _) => Self::Namespace,
            (Some(_), None) => Self::Service,
            (Some(_), Some(_)) => Self::Port,
        }
    }
}

impl<'a> Target<'a> {
    /// What `reference` points to, in an object of the namespace `own`.
    pub fn of(own: &'a str, reference: &'a TargetRef) -> Self {
        match reference.kind {
            TargetKind::Namespace => Self { namespace: own, service: None, port: None },
            TargetKind::Service => Self {
                namespace: reference.namespace.as_deref().unwrap_or(own),
                service: Some(&reference.name),
                port: reference.section_name.as_deref(),
            },
        }
    }

    /// Whether it is about that Service, or a port of it.
    pub fn names(&self, service: &Key) -> bool {
        self.namespace == service.namespace && self.service.is_none_or(|name| name == service.name)
    }

    /// Whether there is a port that both are about.
    pub fn overlaps(&self, other: &Target<'_>) -> bool {
        fn meet(one: Option<&str>, two: Option<&str>) -> bool {
            one.is_none() || two.is_none() || one == two
        }
        self.namespace == other.namespace && meet(self.service, other.service) && meet(self.port, other.port)
    }

    /// The ports of `service` that it is about.
    pub fn ports<'s>(&self, service: &'s Service) -> impl Iterator<Item = &'s ServicePort> {
        let wanted = self.port.map(ToOwned::to_owned);
        service.ports.iter().filter(move |port| wanted.is_none() || port.name == wanted)
    }
}

impl fmt::Display for Target<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.service, self.port) {
            (None, _) => write!(f, "Namespace {}", self.namespace),
            (Some(service), None) => write!(f, "Service {}/{service}", self.namespace),
            (Some(service), Some(port)) => write!(f, "port {port} of Service {}/{service}", self.namespace),
        }
    }
}

/// The claims that were lost to an identical one that comes first, by who lost them.
pub fn conflicts<'w, T: Attaches + 'w>(objects: impl Iterator<Item = &'w T>) -> BTreeMap<Key, Vec<Conflict>> {
    let mut claims: BTreeMap<(&str, Target<'_>, bool), Vec<&T>> = BTreeMap::new();
    for object in objects {
        for target in object.targets() {
            claims.entry((&object.meta().key.namespace, target, object.observes())).or_default().push(object);
        }
    }
    let mut lost: BTreeMap<Key, Vec<Conflict>> = BTreeMap::new();
    for ((_, target, _), mut claimants) in claims {
        claimants.sort_by_key(|object| (object.meta().created, &object.meta().key));
        let mut holders: Vec<&T> = Vec::new();
        for object in claimants {
            match holders.iter().find(|holder| same_callers(**holder, object)) {
                Some(holder) => {
                    let conflict = Conflict::new(&target, object.meta(), holder.meta());
                    lost.entry(object.meta().key.clone()).or_default().push(conflict);
                }
                None => holders.push(object),
            }
        }
    }
    lost
}

/// The narrower targets of those among `others` that are stronger than `object` for everyone, and have nothing for the callee's own
/// proxies where `object` has something.
pub fn silenced<'w, T: Attaches + 'w>(object: &T, others: impl Iterator<Item = &'w T>) -> Vec<Silenced> {
    let own = &object.meta().key.namespace;
    let silent = |other: &&T| {
        other.meta().key.namespace == *own && other.for_everyone() && !other.observes() && !other.has_inbound()
    };
    // What both name is a conflict, of which the loser hears.
    let takes = |theirs: &Target<'_>| {
        let narrower = |mine: &Target<'_>| theirs.overlaps(mine) && Level::of(theirs) < Level::of(mine);
        object.targets().any(|mine| narrower(&mine)) && object.targets().all(|mine| mine != *theirs)
    };
    let others = others.filter(|_| object.has_inbound()).filter(silent);
    let found = others.flat_map(|other| other.targets().filter(takes).map(move |target| (target, other.id())));
    found.map(|(target, by)| Silenced { target: target.to_string(), by: by.clone() }).collect()
}

/// A Namespace target is the object's own namespace; CEL cannot see that name, so it is checked here.
pub(crate) fn check_targets(own: &str, references: &[TargetRef]) -> Result<(), Invalid> {
    let strange = |it: &&(usize, &TargetRef)| it.1.kind == TargetKind::Namespace && it.1.name != own;
    match references.iter().enumerate().collect::<Vec<_>>().iter().find(strange) {
        None => Ok(()),
        Some((place, reference)) => Err(Invalid {
            path: format!("spec.targetRefs[{place}].name"),
            message: format!(
                "`{}` is not the object's own namespace: a Namespace target is always `{own}`; create the object in `{}` instead",
                reference.name, reference.name
            ),
        }),
    }
}

/// What acts beside the callee is for Services of the object's own namespace: their people alone decide what their pods take.
pub(crate) fn check_own(own: &str, references: &[TargetRef], what: &str) -> Result<(), Invalid> {
    let foreign = |it: &&(usize, &TargetRef)| it.1.namespace.as_deref().is_some_and(|namespace| namespace != own);
    match references.iter().enumerate().collect::<Vec<_>>().iter().find(foreign) {
        None => Ok(()),
        Some((place, reference)) => Err(Invalid {
            path: format!("spec.targetRefs[{place}].namespace"),
            message: format!(
                "`{what}` acts in the proxies of the callee, and Service {} is not of the object's own namespace: create the \
                 object in `{}`",
                reference.name,
                reference.namespace.as_deref().unwrap_or(own)
            ),
        }),
    }
}

/// The callers that are selected, in a form that compares: selectors that select everything count as absent, and the order
/// of conditions does not count.
fn callers<T: Attaches>(object: &T) -> Option<(Option<LabelSelector>, Option<LabelSelector>)> {
    let from = object.from()?;
    let canonical = |selector: &Option<LabelSelector>| {
        let mut selector = selector.clone().filter(|selector| !everything(selector))?;
        selector.match_expressions.iter_mut().for_each(|expression| expression.values.sort());
        selector.match_expressions.sort_by(|a, b| (&a.key, &a.values).cmp(&(&b.key, &b.values)));
        Some(selector)
    };
    let both = (canonical(&from.namespace_selector), canonical(&from.pod_selector));
    (both != (None, None)).then_some(both)
}

fn same_callers<T: Attaches>(one: &T, other: &T) -> bool {
    callers(one) == callers(other)
}

fn everything(selector: &LabelSelector) -> bool {
    selector.match_labels.is_empty() && selector.match_expressions.is_empty()
}

#[cfg(test)]
mod tests;
