//! Policies that are valid and cannot work as written. Nothing here refuses an object; the operator shows the warnings in
//! its status, and `firebreak lint` beside the line.

use std::time;

use super::{
    Bulkhead, CircuitBreaker, Condition, HttpMatch, Mode, Percent, Retries, Route, Timeouts, TrafficPolicySpec,
    defaults,
};

/// Something in a policy that will not do what it seems to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// Path of the field inside the spec, such as `routes[0].retries`.
    pub field: String,
    /// What happens instead, and what to change.
    pub message: String,
}

/// All warnings about `policy`, in the order of its fields.
pub fn warnings(policy: &TrafficPolicySpec) -> Vec<Warning> {
    let mut found = Found::default();
    let timeouts = policy.timeouts.clone().unwrap_or_default();
    if let Some(retries) = &policy.retries {
        found.retries("retries", retries, &timeouts);
        found.budget(retries, policy);
    }
    if let Some(breaker) = &policy.circuit_breaker {
        found.breaker(breaker, &timeouts);
    }
    if let Some(bulkhead) = &policy.bulkhead {
        found.waiting(bulkhead, &timeouts);
    }
    found.observed(policy);
    for (place, route) in policy.routes.iter().enumerate() {
        found.route(place, route, policy);
    }
    found.0
}

/// What of `policy` has no effect where the endpoints of callees are not known, as in a cluster, in the order of its fields.
pub fn without_endpoints(policy: &TrafficPolicySpec) -> Vec<Warning> {
    let set = [
        ("loadBalancing", policy.load_balancing.is_some()),
        ("outlierDetection", policy.outlier_detection.is_some()),
        ("healthCheck", policy.health_check.is_some()),
    ];
    let idle = set.into_iter().filter(|(_, set)| *set);
    let message = "has no effect in a cluster yet: there the proxy calls the Service's address and Kubernetes chooses the \
                   endpoint; it acts in local mode";
    idle.map(|(field, _)| Warning { field: field.into(), message: message.into() }).collect()
}

/// Requests that one caller hardly sends in a second.
const MOST_PER_SECOND: f64 = 1_000.0;

#[derive(Default)]
struct Found(Vec<Warning>);

impl Found {
    fn add(&mut self, field: impl Into<String>, message: impl Into<String>) {
        self.0.push(Warning { field: field.into(), message: message.into() });
    }

    fn route(&mut self, place: usize, route: &Route, policy: &TrafficPolicySpec) {
        let earlier = &policy.routes[..place];
        let everything = HttpMatch::default();
        if let Some(hider) =
            earlier.iter().position(|earlier| earlier.matches == everything || earlier.matches == route.matches)
        {
            let message = format!(
                "is never reached: routes[{hider}] comes first and matches all that it matches; put the narrower route first"
            );
            self.add(format!("routes[{place}].match"), message);
        }
        let own = route.timeouts.clone().unwrap_or_default();
        let timeouts = policy.timeouts.clone().unwrap_or_default().overridden_by(&own);
        let inherited = policy.retries.as_ref();
        let retries = match (inherited, &route.retries) {
            (Some(policy), Some(route)) => policy.overridden_by(route),
            (Some(retries), None) | (None, Some(retries)) => retries.clone(),
            (None, None) => return,
        };
        // What the policy's own fields already cause is said once, there.
        if route.retries.is_some() {
            self.retries(&format!("routes[{place}].retries"), &retries, &timeouts);
        } else if own.attempt.or(own.request).is_some() {
            self.tries(&format!("routes[{place}].timeouts"), &retries, &timeouts);
        }
    }

    fn retries(&mut self, field: &str, retries: &Retries, timeouts: &Timeouts) {
        self.tries(field, retries, timeouts);
        let listed = retries.codes.as_ref().is_some_and(|codes| !codes.is_empty());
        let used = retries.conditions().contains(&Condition::Codes);
        if listed && !used {
            self.add(format!("{field}.codes"), "is not used: add `codes` to conditions");
        } else if used && !listed {
            self.add(format!("{field}.conditions"), "`codes` stands for nothing: list the statuses in codes");
        }
    }

    fn tries(&mut self, field: &str, retries: &Retries, timeouts: &Timeouts) {
        let (Some(attempt), Some(request)) = (timeouts.attempt, timeouts.request) else { return };
        let tries = u32::from(retries.max()) + 1;
        let needed = attempt.get() * tries;
        if retries.max() == 0 || needed <= request.get() || attempt.is_zero() {
            return;
        }
        let fitting = request.get().as_millis() / attempt.get().as_millis().max(1);
        let message = format!(
            "{tries} tries of {attempt} take up to {}, which never fits in request ({request}): after {fitting} full {} \
             the request ends; shorten attempt, lengthen request or lower maxRetries",
            super::Duration::from_millis(u64::try_from(needed.as_millis()).unwrap_or(u64::MAX)),
            if fitting == 1 { "try" } else { "tries" },
        );
        self.add(field, message);
    }

    /// What observing does not look at. It is no error: whoever puts the policy in force changes one word.
    fn observed(&mut self, policy: &TrafficPolicySpec) {
        if policy.observes() {
            let nothing = "decides nothing that could be observed: it has no effect until mode is Enforce";
            for (field, set) in [
                ("loadBalancing", policy.load_balancing.is_some()),
                ("healthCheck", policy.health_check.is_some()),
                ("inbound", policy.inbound.is_some()),
            ] {
                if set {
                    self.add(field, nothing);
                }
            }
        }
        let part = policy.part(Mode::Observe);
        let timeouts = part.timeouts.iter().map(|it| ("timeouts".to_owned(), it));
        let routes = part.routes.iter().enumerate();
        let routes =
            routes.filter_map(|(place, it)| Some((format!("routes[{place}].timeouts"), it.timeouts.as_ref()?)));
        for (field, timeouts) in timeouts.chain(routes) {
            for (clock, set) in [("connect", timeouts.connect.is_some()), ("idle", timeouts.idle.is_some())] {
                if set {
                    self.add(format!("{field}.{clock}"), "is not observed: only attempt and request are");
                }
            }
        }
    }

    fn budget(&mut self, retries: &Retries, policy: &TrafficPolicySpec) {
        let Some(budget) = retries.budget else { return };
        if budget.percent != Some(Percent::whole(0)) || budget.min_per_second != Some(0) {
            return;
        }
        if retries.max() > 0 {
            self.add("retries.budget", "allows no retry at all: raise percent or minPerSecond, or remove retries");
        }
        if policy.hedge.is_some() || policy.routes.iter().any(|route| route.hedge.is_some()) {
            let message = "allows no second try of `hedge`, which is paid from it: raise percent or minPerSecond, or remove \
                           hedge";
            self.add("retries.budget", message);
        }
    }

    fn breaker(&mut self, breaker: &CircuitBreaker, timeouts: &Timeouts) {
        let trips = breaker.trips();
        let rates = [
            ("failureRate", trips.failure_rate.map(|rate| (rate.window, rate.min_requests))),
            ("slowCalls", trips.slow_calls.as_ref().map(|slow| (slow.window, slow.min_requests))),
        ];
        for (name, rate) in rates {
            let Some((window, min_requests)) = rate else { continue };
            let window = window.map_or(defaults::BREAKER_WINDOW, super::Duration::get);
            let needed = min_requests.unwrap_or(defaults::BREAKER_MIN_REQUESTS);
            if f64::from(needed) > MOST_PER_SECOND * window.as_secs_f64() {
                let message = "can hardly occur: one caller would have to send more than 1000 requests a second; lower \
                               minRequests or lengthen window";
                self.add(format!("circuitBreaker.tripOn.{name}.minRequests"), message);
            }
        }
        let threshold = trips.slow_calls.map(|slow| slow.threshold);
        if let (Some(threshold), Some(attempt)) = (threshold, timeouts.attempt)
            && threshold.get() >= attempt.get()
        {
            let message = format!("is never exceeded: a try ends as a failure at timeouts.attempt ({attempt})");
            self.add("circuitBreaker.tripOn.slowCalls.threshold", message);
        }
    }

    fn waiting(&mut self, bulkhead: &Bulkhead, timeouts: &Timeouts) {
        let waits = bulkhead.max_pending_time.map_or(time::Duration::ZERO, super::Duration::get);
        let pending = bulkhead.max_pending.unwrap_or(defaults::MAX_PENDING);
        if let Some(request) = timeouts.request
            && waits >= request.get()
            && pending > 0
        {
            let message = format!("is never reached: waiting counts towards request ({request}), which ends first");
            self.add("bulkhead.maxPendingTime", message);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn fields(spec: Value) -> Vec<String> {
        let mut spec = spec;
        spec["targetRefs"] = json!([{"kind": "Service", "name": "a"}]);
        let spec: TrafficPolicySpec = serde_json::from_value(spec).unwrap();
        warnings(&spec).into_iter().map(|warning| warning.field).collect()
    }

    #[test]
    fn what_observing_does_not_look_at() {
        let observed = json!({"mode": "Observe", "timeouts": {"connect": "1s", "request": "3s"}, "loadBalancing": {},
                              "routes": [{"match": {}, "timeouts": {"idle": "1s"}}]});
        assert_eq!(fields(observed), ["loadBalancing", "timeouts.connect", "routes[0].timeouts.idle"]);
        assert_eq!(fields(json!({"timeouts": {"connect": "1s"}, "loadBalancing": {}})), [""; 0]);
    }

    #[test]
    fn sound_policies_are_left_in_peace() {
        let talk = json!({
            "timeouts": {"connect": "1s", "attempt": "300ms", "request": "3s"},
            "retries": {"maxRetries": 3, "conditions": ["5xx"], "methods": "All", "budget": {"percent": 100}},
            "bulkhead": {"maxConnections": 100, "maxPending": 100, "maxPendingTime": "1s"},
            "routes": [
                {"match": {"path": {"prefix": "/reports"}}, "timeouts": {"attempt": "10s", "request": "40s"}},
                {"match": {}, "retries": {"maxRetries": 0}},
            ],
        });
        assert_eq!(fields(talk), [""; 0]);
    }

    #[test]
    fn tries_that_cannot_fit() {
        assert_eq!(
            fields(json!({"timeouts": {"attempt": "1s", "request": "3s"}, "retries": {"maxRetries": 3}})),
            ["retries"]
        );
        assert_eq!(
            fields(json!({"timeouts": {"attempt": "1s", "request": "3s"}, "retries": {"maxRetries": 2}})),
            [""; 0]
        );
        let inherited = json!({
            "timeouts": {"attempt": "1s", "request": "10s"},
            "retries": {"maxRetries": 3},
            "routes": [{"match": {"methods": ["GET"]}, "timeouts": {"request": "2s"}}],
        });
        assert_eq!(fields(inherited), ["routes[0].timeouts"]);
        let message = &warnings(&TrafficPolicySpec {
            timeouts: Some(serde_json::from_value(json!({"attempt": "300ms", "request": "1s"})).unwrap()),
            retries: Some(serde_json::from_value(json!({"maxRetries": 4})).unwrap()),
            ..TrafficPolicySpec::default()
        })[0]
            .message;
        assert!(
            message.starts_with(
                "5 tries of 300ms take up to 1s500ms, which never fits in request (1s): after 3 full tries"
            )
        );
    }

    #[test]
    fn breakers_that_cannot_open() {
        let slow = json!({"percent": 50, "threshold": "1s"});
        let breaker = |trips: Value| json!({"timeouts": {"attempt": "1s"}, "circuitBreaker": {"tripOn": trips}});
        assert_eq!(fields(breaker(json!({"slowCalls": slow}))), ["circuitBreaker.tripOn.slowCalls.threshold"]);
        let rate = json!({"percent": 50, "window": "1s", "minRequests": 1001});
        assert_eq!(fields(breaker(json!({"failureRate": rate}))), ["circuitBreaker.tripOn.failureRate.minRequests"]);
        assert_eq!(fields(json!({"circuitBreaker": {}})), [""; 0]);
    }

    #[test]
    fn settings_that_do_nothing() {
        assert_eq!(fields(json!({"retries": {"codes": [429]}})), ["retries.codes"]);
        assert_eq!(fields(json!({"retries": {"conditions": ["codes"]}})), ["retries.conditions"]);
        assert_eq!(fields(json!({"retries": {"budget": {"percent": 0, "minPerSecond": 0}}})), ["retries.budget"]);
        let budget = json!({"maxRetries": 0, "budget": {"percent": 0, "minPerSecond": 0}});
        assert_eq!(fields(json!({"retries": budget})), [""; 0]);
        assert_eq!(fields(json!({"retries": budget, "hedge": {"after": "50ms"}})), ["retries.budget"]);
        let waits = json!({"timeouts": {"request": "1s"}, "bulkhead": {"maxRequests": 1, "maxPendingTime": "2s"}});
        assert_eq!(fields(waits), ["bulkhead.maxPendingTime"]);
        let hidden = json!({"routes": [
            {"match": {}, "timeouts": {"attempt": "1s"}},
            {"match": {"methods": ["GET"]}, "timeouts": {"attempt": "2s"}},
        ]});
        assert_eq!(fields(hidden), ["routes[1].match"]);
    }

    #[test]
    fn what_needs_endpoints_is_named() {
        let spec = |policy: Value| serde_json::from_value::<TrafficPolicySpec>(policy).unwrap();
        let balanced =
            spec(json!({"targetRefs": [], "loadBalancing": {}, "outlierDetection": {}, "healthCheck": {"tcp": {}}}));
        let named: Vec<_> = without_endpoints(&balanced).into_iter().map(|warning| warning.field).collect();
        assert_eq!(named, ["loadBalancing", "outlierDetection", "healthCheck"]);
        assert_eq!(warnings(&balanced), [], "in local mode it has an effect");
        assert_eq!(without_endpoints(&spec(json!({"targetRefs": [], "circuitBreaker": {}}))), []);
    }
}
