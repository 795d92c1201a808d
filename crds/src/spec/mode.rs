//! Whether a protection acts, or only says what it would have done.

use serde::{Deserialize, Serialize};

use super::{
    Bulkhead, CircuitBreaker, Hedge, OutlierDetection, RateLimit, Retries, Route, Timeouts, TrafficPolicySpec, defaults,
};

/// Whether a protection acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
pub enum Mode {
    /// It acts.
    Enforce,
    /// It changes nothing, and counts what it would have done.
    Observe,
}

/// A protection that may be observed.
pub trait Protection: Clone {
    /// Its own mode, if it names one.
    fn mode(&mut self) -> &mut Option<Mode>;
}

macro_rules! protections {
    ($($kind:ty),+) => {
        $(impl Protection for $kind {
            fn mode(&mut self) -> &mut Option<Mode> {
                &mut self.mode
            }
        })+
    };
}

protections!(Timeouts, Retries, Hedge, CircuitBreaker, Bulkhead, OutlierDetection, RateLimit);

/// The protections of a policy that are in one mode, without the word itself: what they say is the same in either.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Part {
    /// As the user wrote it.
    pub timeouts: Option<Timeouts>,
    /// As the user wrote it.
    pub retries: Option<Retries>,
    /// As the user wrote it.
    pub hedge: Option<Hedge>,
    /// As the user wrote it.
    pub circuit_breaker: Option<CircuitBreaker>,
    /// As the user wrote it.
    pub bulkhead: Option<Bulkhead>,
    /// As the user wrote it.
    pub outlier_detection: Option<OutlierDetection>,
    /// As the user wrote it.
    pub rate_limit: Option<RateLimit>,
    /// All of them in their places, so that the first match is the same in each mode, with what they say in this one.
    pub routes: Vec<Route>,
}

impl TrafficPolicySpec {
    /// Whether all of it is observed.
    pub fn observes(&self) -> bool {
        self.mode.unwrap_or(defaults::MODE) == Mode::Observe
    }

    /// The protections that are in `mode`.
    pub fn part(&self, mode: Mode) -> Part {
        let of_policy = self.mode.unwrap_or(defaults::MODE);
        let modes = [
            own(self.timeouts.as_ref()).unwrap_or(of_policy),
            own(self.retries.as_ref()).unwrap_or(of_policy),
            own(self.hedge.as_ref()).unwrap_or(of_policy),
        ];
        let [timeouts, retries, hedge] = modes.map(|own| own == mode);
        let route = |route: &Route| Route {
            matches: route.matches.clone(),
            timeouts: route.timeouts.clone().filter(|_| timeouts),
            retries: route.retries.clone().filter(|_| retries),
            hedge: route.hedge.filter(|_| hedge),
        };
        let routes: Vec<_> = self.routes.iter().map(route).collect();
        let says = |route: &Route| route.timeouts.is_some() || route.retries.is_some() || route.hedge.is_some();
        // With nothing to say in this mode they need not be there, unless all of them say nothing in either.
        let routes = if routes.iter().any(says) { routes } else { Vec::new() };
        Part {
            timeouts: within(self.timeouts.as_ref(), of_policy, mode),
            retries: within(self.retries.as_ref(), of_policy, mode),
            hedge: within(self.hedge.as_ref(), of_policy, mode),
            circuit_breaker: within(self.circuit_breaker.as_ref(), of_policy, mode),
            bulkhead: within(self.bulkhead.as_ref(), of_policy, mode),
            outlier_detection: within(self.outlier_detection.as_ref(), of_policy, mode),
            rate_limit: within(self.rate_limit.as_ref(), of_policy, mode),
            routes,
        }
    }
}

impl Part {
    /// The fields that it has, by the names that users write.
    pub fn fields(&self) -> Vec<&'static str> {
        let set = [
            ("timeouts", self.timeouts.is_some()),
            ("retries", self.retries.is_some()),
            ("hedge", self.hedge.is_some()),
            ("circuitBreaker", self.circuit_breaker.is_some()),
            ("bulkhead", self.bulkhead.is_some()),
            ("outlierDetection", self.outlier_detection.is_some()),
            ("rateLimit", self.rate_limit.is_some()),
            ("routes", !self.routes.is_empty()),
        ];
        set.into_iter().filter(|(_, set)| *set).map(|(field, _)| field).collect()
    }
}

fn own<T: Protection>(protection: Option<&T>) -> Option<Mode> {
    protection.and_then(|protection| *protection.clone().mode())
}

/// `protection` without its mode, if it is in `wanted`.
fn within<T: Protection>(protection: Option<&T>, of_policy: Mode, wanted: Mode) -> Option<T> {
    let mut protection = protection?.clone();
    let own = protection.mode().take().unwrap_or(of_policy);
    (own == wanted).then_some(protection)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn spec(spec: serde_json::Value) -> TrafficPolicySpec {
        serde_json::from_value(spec).unwrap()
    }

    #[test]
    fn a_protection_is_in_its_own_mode_or_in_that_of_the_policy() {
        let mixed = spec(
            json!({"targetRefs": [], "bulkhead": {"mode": "Observe", "maxRequests": 3}, "timeouts": {"request": "1s"}}),
        );
        let (enforced, observed) = (mixed.part(Mode::Enforce), mixed.part(Mode::Observe));
        assert_eq!((enforced.fields(), observed.fields()), (vec!["timeouts"], vec!["bulkhead"]));
        assert_eq!(
            observed.bulkhead.unwrap().mode,
            None,
            "what travels says nothing of it: an old reader would enforce it"
        );
        let all = spec(json!({"targetRefs": [], "mode": "Observe", "retries": {}, "circuitBreaker": {}}));
        assert!(all.observes());
        assert_eq!(all.part(Mode::Observe).fields(), ["retries", "circuitBreaker"]);
        assert_eq!(all.part(Mode::Enforce), Part::default());
    }

    #[test]
    fn routes_stay_in_their_places_so_that_the_first_match_stays_the_same() {
        let routed = spec(json!({"targetRefs": [], "retries": {"mode": "Observe"}, "routes": [
            {"match": {"path": {"prefix": "/a"}}, "retries": {"maxRetries": 0}},
            {"match": {}, "timeouts": {"request": "1s"}},
        ]}));
        let (enforced, observed) = (routed.part(Mode::Enforce).routes, routed.part(Mode::Observe).routes);
        assert_eq!((enforced.len(), observed.len()), (2, 2));
        assert!(enforced[0].retries.is_none() && observed[0].retries.is_some());
        assert!(enforced[1].timeouts.is_some() && observed[1].timeouts.is_none());
    }
}
