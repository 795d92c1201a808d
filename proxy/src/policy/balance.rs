//! Which endpoint a try goes to.
//!
//! * **Two choices.** [`PeakEwma`](Algorithm::PeakEwma) and [`LeastRequest`](Algorithm::LeastRequest) compare two endpoints
//!   that chance names. The best of all would get the requests of every caller that sees the same at the same time; the
//!   better of two is nearly as good and spreads them (Mitzenmacher, *The Power of Two Choices*, 2001).
//! * **Another one.** A retry goes to another endpoint than the try before, if there is one; with a hash, to the next on the
//!   ring. Whom an endpoint's breaker does not admit goes to any other that does.
//! * **Slow start.** An endpoint that is new is passed over when its turn comes, nine times of ten at first and less as time
//!   goes on. With a hash the same keys are passed over, so that each moves once.
//! * **Health.** An endpoint that its health checks say is ill is passed over. Where that is so of all, they are used all the same:
//!   the checks may be what is wrong, and a request finds out.
//!
//! Choosing costs a few atomic reads, and neither a lock nor an allocation; the ring is made when a config is compiled.

mod key;
mod load;
mod ring;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use firebreak_crds::spec::{Algorithm, LoadBalancing};
use http::HeaderMap;
use tokio::time::Instant;

use self::ring::{Ring, Seen, scatter};
pub use self::{
    key::Key,
    load::{Load, Placed},
};
use super::{
    breaker::{Breaker, Refused, State, Ticket},
    health::Health,
};

/// How often chance is asked for an endpoint that will do.
const DRAWS: usize = 8;

/// The places where a callee runs, and how one of them is chosen.
#[derive(Debug)]
pub struct Endpoints {
    list: Box<[Endpoint]>,
    algorithm: Algorithm,
    hash: Option<(Key, Ring)>,
    turn: AtomicUsize,
}

/// One place where a callee runs.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Its own address.
    pub address: SocketAddr,
    /// Where to connect to: there, or to a proxy that stands beside it.
    pub way: SocketAddr,
    /// Its breaker, if the policy has one.
    pub breaker: Option<Arc<Breaker>>,
    /// What is known of it.
    pub load: Arc<Load>,
    /// What its health checks say, if the policy has any.
    pub health: Option<Arc<Health>>,
}

/// An endpoint, and the permit of its breaker.
#[derive(Debug)]
pub struct Chosen<'a> {
    /// Where the try goes.
    pub endpoint: &'a Endpoint,
    /// What is to be told of its outcome.
    pub ticket: Option<Ticket>,
}

/// Why there is no endpoint for a try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoEndpoint {
    /// There is none at all.
    Empty,
    /// None is admitted; the first of them is to be asked again then.
    Refused(Refused),
}

/// What came of asking endpoints for a try.
#[derive(Debug, Default)]
struct Asked {
    places: Seen,
    /// The first of those whose breaker refused that is to be asked again.
    soonest: Option<Refused>,
}

impl Asked {
    /// Asks an endpoint's breaker for a try, once.
    fn endpoint<'a>(
        &mut self,
        place: usize,
        endpoint: &'a Endpoint,
        now: Instant,
        end: Option<Instant>,
    ) -> Option<Chosen<'a>> {
        if !self.places.is_new(place) {
            return None;
        }
        match endpoint.breaker.as_ref().map(|breaker| breaker.admit(now, end)).transpose() {
            Ok(ticket) => Some(Chosen { endpoint, ticket }),
            Err(refused) => {
                let first = self.soonest.get_or_insert(refused);
                first.retry_after = first.retry_after.min(refused.retry_after);
                None
            }
        }
    }
}

impl Endpoint {
    fn is_well(&self) -> bool {
        self.health.as_ref().is_none_or(|health| health.is_well())
    }

    /// Whether it may be named: not where it is sure to be passed over.
    fn is_usable(&self, now: Instant) -> bool {
        self.is_well() && self.breaker.as_ref().is_none_or(|breaker| !breaker.is_shut(now))
    }

    /// The word for its state in metrics: what its health checks say, or its breaker, or that it is new.
    pub fn state(&self, now: Instant) -> &'static str {
        match self.breaker.as_ref().map(|breaker| breaker.state()) {
            _ if !self.is_well() => UNHEALTHY,
            Some(state) if state != State::Closed => state.name(),
            _ if self.load.part(now) < 1.0 => WARMING,
            _ => State::Closed.name(),
        }
    }
}

/// The state of an endpoint that its health checks say is ill.
pub const UNHEALTHY: &str = "unhealthy";

/// The state of an endpoint that is new.
pub const WARMING: &str = "warming";

impl Endpoints {
    /// Endpoints in the order of the config; without a policy they take turns.
    pub fn new(list: Box<[Endpoint]>, balancing: Option<&LoadBalancing>) -> Self {
        let algorithm = balancing.map_or(Algorithm::RoundRobin, LoadBalancing::algorithm);
        let key = balancing.and_then(|balancing| balancing.hash.as_ref()).and_then(Key::new);
        let key = key.filter(|_| algorithm == Algorithm::Hash);
        let hash = key.map(|key| (key, Ring::new(list.iter().map(|endpoint| endpoint.address))));
        Self { list, algorithm, hash, turn: AtomicUsize::new(0) }
    }

    /// What names the endpoint of a request, where that is asked for and there.
    pub fn key(&self, headers: &HeaderMap) -> Option<u64> {
        self.hash.as_ref().and_then(|(key, _)| key.of(headers))
    }

    /// The own address of the endpoint to which `way` leads.
    pub fn behind(&self, way: SocketAddr) -> Option<SocketAddr> {
        self.list.iter().find(|endpoint| endpoint.way == way).map(|endpoint| endpoint.address)
    }

    /// The endpoint for a try at `now` that must have its answer by `end`: another than the one that `last` leads to if there is another,
    /// and one whose breaker admits it.
    ///
    /// # Errors
    /// When there is none.
    pub fn next(
        &self,
        key: Option<u64>,
        last: Option<SocketAddr>,
        now: Instant,
        end: Option<Instant>,
    ) -> Result<Chosen<'_>, NoEndpoint> {
        if self.list.is_empty() {
            return Err(NoEndpoint::Empty);
        }
        let last = last.and_then(|last| self.list.iter().position(|endpoint| endpoint.way == last));
        // Where all that are well are ejected, rather one that is ill than none. It costs one look where the first is usable.
        let heed_health = self.list.iter().any(|endpoint| endpoint.is_usable(now));
        let mut asked = Asked::default();
        let ask = |place| {
            let endpoint = self.endpoint(place, heed_health)?;
            asked.endpoint(place, endpoint, now, end)
        };
        let chosen = match (&self.hash, key) {
            (Some((_, ring)), Some(key)) => self.on_ring(ring, key, last, now).find_map(ask),
            _ => self.preferred(last, now, heed_health).find_map(ask),
        };
        // All are open, or recovering: how much a callee gets of which that is true is for its own breaker to say, which
        // recovers too. Two shares of a tenth would be a hundredth.
        let beyond = || {
            self.from(self.chance(0)).find_map(|place| {
                let endpoint = self.endpoint(place, heed_health)?;
                let ticket = Some(endpoint.breaker.as_ref()?.admit_beyond_share(now)?);
                Some(Chosen { endpoint, ticket })
            })
        };
        let chosen = chosen.or_else(beyond);
        match asked.soonest {
            Some(refused) => chosen.ok_or(NoEndpoint::Refused(refused)),
            // Nobody has refused: if there is none, all have fallen ill in this moment.
            None => Ok(chosen.unwrap_or_else(|| Chosen { endpoint: &self.list[self.chance(0)], ticket: None })),
        }
    }

    /// The endpoint at a place, if its health does not speak against it.
    fn endpoint(&self, place: usize, heed_health: bool) -> Option<&Endpoint> {
        Some(&self.list[place]).filter(|endpoint| !heed_health || endpoint.is_well())
    }

    /// Places in the order in which a key's tries go to them: those after `last`, then all.
    fn on_ring(&self, ring: &Ring, key: u64, last: Option<usize>, now: Instant) -> impl Iterator<Item = usize> {
        let mut walk = ring.walk(key);
        if let Some(last) = last {
            walk.any(|place| place == last);
        }
        // Of each key the same number, so that it moves to a new endpoint once.
        let number = fraction(scatter(key));
        let warm = walk.filter(move |place| self.list[*place].load.part(now) > number);
        let last = last.filter(|_| self.list.len() > 1);
        warm.chain(ring.walk(key).chain(self.from(0)).filter(move |place| Some(*place) != last)).chain(last)
    }

    /// Places in the order in which they are asked: the one that the algorithm names (with `heed` a usable one), all others, and
    /// `last` at the end.
    fn preferred(&self, last: Option<usize>, now: Instant, heed: bool) -> impl Iterator<Item = usize> {
        let last = last.filter(|_| self.list.len() > 1);
        let first = match self.algorithm {
            Algorithm::RoundRobin => self.in_turn(last, now, heed),
            Algorithm::Random => self.drawn(last, now, heed),
            Algorithm::PeakEwma | Algorithm::LeastRequest | Algorithm::Hash => self.better_of_two(last, now, heed),
        };
        // By chance: what a breaker turns away is to be spread over all others, and not to fall on one neighbour.
        let others = (0..DRAWS).map(|_| self.chance(0)).chain(self.from(0)).filter(move |place| Some(*place) != last);
        std::iter::once(first).chain(others).chain(last)
    }

    fn in_turn(&self, last: Option<usize>, now: Instant, heed: bool) -> usize {
        let mut place = None;
        for _ in 0..DRAWS {
            let turn = Some(self.turn.fetch_add(1, Relaxed) % self.list.len());
            if turn == last {
                continue;
            }
            place = turn;
            if turn.is_some_and(|turn| self.is_due(turn, now, heed)) {
                break;
            }
        }
        place.unwrap_or_else(|| self.other_than(last, None))
    }

    /// Chance names one, new ones as much less often as they are to get less.
    fn drawn(&self, last: Option<usize>, now: Instant, heed: bool) -> usize {
        let usable = |place: &usize| !heed || self.list[*place].is_usable(now);
        let mut drawn = None;
        for _ in 0..DRAWS {
            let place = self.other_than(last, None);
            if self.is_due(place, now, heed) {
                return place;
            }
            drawn = drawn.or(Some(place).filter(usable));
        }
        let others = || self.from(self.chance(0)).filter(|place| Some(*place) != last).find(usable);
        drawn.or_else(others).unwrap_or_else(|| self.other_than(last, None))
    }

    fn better_of_two(&self, last: Option<usize>, now: Instant, heed: bool) -> usize {
        let one = self.drawn(last, now, heed);
        if self.list.len() < 2 + usize::from(last.is_some()) {
            return one;
        }
        // By chance, and if that names nobody in a while, whoever is there.
        let drawn = (0..DRAWS).map(|_| self.other_than(last, Some(one)));
        let mut others = drawn.chain(self.from(0).filter(|two| *two != one && Some(*two) != last));
        let usable = |two: &usize| !heed || self.list[*two].is_usable(now);
        let Some(two) = others.find(usable) else { return one };
        let (first, second) = (&self.list[one].load, &self.list[two].load);
        let fewer = second.outstanding() < first.outstanding();
        let better = match self.algorithm {
            Algorithm::LeastRequest => fewer,
            _ => {
                let (first, second) = (first.cost(now), second.cost(now));
                // Where nothing is known of either, both are infinite.
                second < first || (fewer && second <= first)
            }
        };
        if better && self.is_due(two, now, heed) { two } else { one }
    }

    /// Whether an endpoint is to be named when its turn comes: one that is warm, and one that is not as often as it is to be.
    fn is_due(&self, place: usize, now: Instant, heed: bool) -> bool {
        let endpoint = &self.list[place];
        let part = endpoint.load.part(now);
        (!heed || endpoint.is_usable(now)) && (part >= 1.0 || fastrand::f64() < part)
    }

    /// A random place that is neither of these; there is one.
    fn other_than(&self, one: Option<usize>, two: Option<usize>) -> usize {
        let (low, high) = if one <= two { (one, two) } else { (two, one) };
        let mut place = self.chance(usize::from(one.is_some()) + usize::from(two.is_some()));
        for not in [low, high].into_iter().flatten() {
            place += usize::from(place >= not);
        }
        place
    }

    /// A random number below the count of places, less `by`.
    fn chance(&self, by: usize) -> usize {
        fastrand::usize(..self.list.len().saturating_sub(by).max(1))
    }

    /// All places, from one on.
    fn from(&self, first: usize) -> impl Iterator<Item = usize> + use<> {
        let count = self.list.len();
        (first..count).chain(0..first)
    }
}

/// A number from 0 to 1 of which all values are alike.
fn fraction(hash: u64) -> f64 {
    f64::from(u32::try_from(hash >> 32).unwrap_or(u32::MAX)) / (f64::from(u32::MAX) + 1.0)
}

#[cfg(test)]
mod tests;
