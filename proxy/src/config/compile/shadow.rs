//! The policy that is observed: compiled as one in force is, with state of its own that is carried by the same rules.

use std::{net::SocketAddr, sync::Arc};

use firebreak_crds::wire;
use hashbrown::HashMap;
use tokio::time::Instant;

use super::{Entries, State, Versioned, carried, compiled, extra};
use crate::policy::{
    breaker::{self, Breaker, Peers},
    bulkhead,
    rate::Rate,
    shadow::{Counts, Observer, Shadow},
};

/// A policy with its name and the generation of its object.
type Named<'a> = (&'a str, i64, &'a wire::Policy);

/// The policy to observe at a port: the first that is observed as a whole and is for this pod, or what the one in force observes.
pub(super) fn observed<'a>(
    port: &wire::Port,
    in_force: Option<(&&'a str, &Versioned<'a>)>,
    entries: &Entries<'a>,
) -> Option<Named<'a>> {
    let whole = port.observe.iter().find_map(|name| entries.policies.get_key_value(name.as_str()));
    let whole = whole.map(|(name, (generation, policy))| (*name, *generation, *policy));
    whole.or_else(|| {
        let (name, (generation, policy)) = in_force?;
        Some((*name, *generation, policy.observe.as_deref()?))
    })
}

impl State {
    /// Follows requests beside the policy in force, or does not any more.
    pub(super) fn observe(&mut self, policy: Option<Named<'_>>, list: Option<&[wire::Endpoint]>, now: Instant) {
        let before = self.observer.take();
        let (counts, list) = (&self.metrics.observed, list.unwrap_or_default());
        self.observer = policy.map(|policy| Arc::new(follow(policy, list, before.as_deref(), counts, now)));
    }
}

/// The policy compiled, going on where `before` was.
fn follow(
    (name, generation, policy): Named<'_>,
    list: &[wire::Endpoint],
    before: Option<&Observer>,
    counts: &Arc<Counts>,
    now: Instant,
) -> Observer {
    let observer = before;
    let before = observer.map(|it| &*it.shadow);
    let extra = extra(before.map(|it| it.policy.extra.clone()).unwrap_or_default(), policy, now);
    let known = before.and_then(|it| it.rate.clone());
    let rate = policy
        .rate_limit
        .map(|limit| known.filter(|rate| rate.limit() == limit).unwrap_or_else(|| Arc::new(Rate::new(limit, now))));
    let limits = policy.circuit_breaker.as_ref().map(breaker::Limits::from);
    let known = before.and_then(|it| it.breaker.clone());
    let breaker = limits.map(|limits| carried(known, None, limits, &counts.breaker, now));
    let endpoints = endpoints(policy, limits, list, before, counts, now);
    let bulkhead = policy.bulkhead.as_ref().map_or(bulkhead::Limits::NONE, Into::into);
    let policy = compiled(name, generation, policy, extra);
    let shadow = Shadow { policy, rate, breaker, endpoints, counts: Arc::clone(counts) };
    Observer::new(shadow, bulkhead, observer, now)
}

/// A breaker for each endpoint, where outliers are observed.
fn endpoints(
    policy: &wire::Policy,
    limits: Option<breaker::Limits>,
    list: &[wire::Endpoint],
    before: Option<&Shadow>,
    counts: &Counts,
    now: Instant,
) -> HashMap<SocketAddr, Arc<Breaker>> {
    let outliers = policy.outlier_detection.as_ref();
    let of_endpoint = breaker::Limits::of_endpoint(limits, outliers).filter(|_| outliers.is_some());
    let known = before.and_then(|it| it.endpoints.values().find_map(|breaker| breaker.peers().cloned()));
    let peers = of_endpoint.map(|limits| {
        let same = known.filter(|peers| peers.rate() == limits.above_others);
        same.unwrap_or_else(|| Peers::new(limits.above_others, now))
    });
    if let Some(peers) = &peers {
        peers.count(list.len());
    }
    let gone = before.into_iter().flat_map(|it| &it.endpoints);
    gone.filter(|(address, _)| !list.iter().any(|it| it.address == **address)).for_each(|(_, breaker)| {
        breaker.retire(now);
    });
    let endpoint = |endpoint: &wire::Endpoint| {
        let known = before.and_then(|it| it.endpoints.get(&endpoint.address).cloned());
        let breaker = carried(known, peers.as_ref(), of_endpoint?, &counts.endpoints, now);
        Some((endpoint.address, breaker))
    };
    let endpoints: HashMap<_, _> = list.iter().filter_map(endpoint).collect();
    if let Some(peers) = &peers {
        peers.settle(endpoints.values().map(|breaker| &**breaker), now);
    }
    endpoints
}

/// A policy that is observed at these endpoints, without anything before it.
#[cfg(test)]
pub(crate) fn observed_alone(policy: &wire::Policy, endpoints: &[SocketAddr], now: Instant) -> Observer {
    let list: Vec<_> = endpoints.iter().map(|address| wire::Endpoint::at(*address)).collect();
    follow(("shop/test", 1, policy), &list, None, &Arc::default(), now)
}
