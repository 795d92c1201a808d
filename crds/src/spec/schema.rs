//! What the schema says beyond types: CEL rules with the messages people read, and the schemas of our own scalars.
//!
//! A rule that one object's text can decide stands here and nowhere else; the API server and `firebreak lint` evaluate the
//! same expression and print the same message.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Value, json};

use super::{Duration, Percent, duration};

/// `x-kubernetes-validations` from pairs of expression and message.
fn rules<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Value {
    pairs.into_iter().map(|(rule, message)| json!({"rule": rule, "message": message})).collect()
}

const UNIQUE_TARGETS: (&str, &str) = (
    "self.targetRefs.all(a, self.targetRefs.exists_one(b, a.kind == b.kind && a.name == b.name \
     && (has(a.__namespace__) ? a.__namespace__ : '') == (has(b.__namespace__) ? b.__namespace__ : '') \
     && (has(a.sectionName) ? a.sectionName : '') == (has(b.sectionName) ? b.sectionName : '')))",
    "targetRefs names the same target twice: remove one of the two",
);

/// A duration of the policy; `absent` where it has none.
fn of_policy(part: &str, name: &str, absent: &str) -> String {
    format!("(has(self.{part}) && has(self.{part}.{name}) ? duration(self.{part}.{name}) : duration('{absent}'))")
}

/// A duration of a route, which inherits what it does not set: durations are compared as they will run.
fn of_route(part: &str, name: &str, absent: &str) -> String {
    let inherited = of_policy(part, name, absent);
    format!("(has(r.{part}) && has(r.{part}.{name}) ? duration(r.{part}.{name}) : {inherited})")
}

/// Stands for no limit.
const NEVER: &str = "2000000h";

pub(crate) fn policy_rules() -> Value {
    let fits = format!(
        "!has(self.routes) || self.routes.all(r, {} <= {})",
        of_route("timeouts", "attempt", "0s"),
        of_route("timeouts", "request", NEVER)
    );
    let of_timeouts = [
        UNIQUE_TARGETS,
        (
            &fits,
            "a route's attempt timeout is longer than its request timeout (after inheriting what it leaves out): one try \
             could never finish; shorten attempt or lengthen request",
        ),
    ];
    let of_inbound = (
        "!has(self.inbound) || !has(self.from)",
        "inbound is for whoever calls: the callee's proxy does not know the caller's pod; leave from out, or put inbound into a \
         policy of its own",
    );
    let of_hedge = hedge_rules();
    let of_hedge = of_hedge.iter().map(|(rule, message)| (rule.as_str(), *message));
    let last = (
        "has(self.timeouts) || has(self.retries) || has(self.hedge) || has(self.circuitBreaker) || has(self.bulkhead) \
         || has(self.loadBalancing) || has(self.outlierDetection) || has(self.healthCheck) || has(self.rateLimit) || has(self.inbound) \
         || (has(self.routes) && size(self.routes) > 0)",
        "the policy does nothing: set timeouts, retries, hedge, circuitBreaker, bulkhead, loadBalancing, outlierDetection, healthCheck, rateLimit, inbound or routes",
    );
    let of_mode = mode_rules();
    let of_mode = of_mode.iter().map(|(rule, message)| (rule.as_str(), *message));
    rules(of_timeouts.into_iter().chain(of_hedge).chain(of_mode).chain([of_inbound, last]))
}

/// Rules about `mode`: which of them says it.
fn mode_rules() -> [(String, &'static str); 2] {
    let protections = ["timeouts", "retries", "hedge", "circuitBreaker", "bulkhead", "outlierDetection", "rateLimit"];
    let enforced = |it: &str| format!("(has(self.{it}) && has(self.{it}.mode) && self.{it}.mode == 'Enforce')");
    let on_route = |it: &str| format!("(has(r.{it}) && has(r.{it}.mode))");
    let (enforced, on_route) = (protections.map(enforced), ["timeouts", "retries", "hedge"].map(on_route));
    [
        (
            format!("!has(self.mode) || self.mode != 'Observe' || !({})", enforced.join(" || ")),
            "a policy with mode: Observe enforces nothing: move what has mode: Enforce into another policy, or set mode: Observe \
             for each of the others instead",
        ),
        (
            format!("!has(self.routes) || !self.routes.exists(r, {})", on_route.join(" || ")),
            "mode belongs to the policy, not to a route: its timeouts, retries and hedge are enforced or observed on every route",
        ),
    ]
}

/// Rules about `hedge` that look at the timeouts too, or at what a route inherits.
fn hedge_rules() -> [(String, &'static str); 5] {
    let in_time = |of: fn(&str, &str, &str) -> String| {
        let after = of("hedge", "after", "0s");
        let ends = ["attempt", "request"].map(|name| of("timeouts", name, NEVER));
        format!("{after} < {} && {after} < {}", ends[0], ends[1])
    };
    [
        (
            "!has(self.hedge) || has(self.hedge.after)".into(),
            "hedge.after is missing: about the 95th percentile of the callee's times is a good choice",
        ),
        (
            "!has(self.hedge) || !has(self.hedge.maxExtraLoadPercent) || double(self.hedge.maxExtraLoadPercent) > 0.0"
                .into(),
            "hedge.maxExtraLoadPercent must be above 0: with 0 no second try is ever sent; leave hedge out",
        ),
        (
            format!("!has(self.hedge) || ({})", in_time(of_policy)),
            "hedge.after must be shorter than the attempt and request timeouts: a try would end before a second is sent",
        ),
        (
            "!has(self.routes) || self.routes.all(r, !has(r.hedge) || has(r.hedge.after) || has(self.hedge))".into(),
            "a route's hedge has no after, and there is none of the policy to inherit: set after",
        ),
        (
            format!(
                "!has(self.routes) || self.routes.all(r, (has(r.hedge) && has(r.hedge.maxExtraLoadPercent) \
                 && double(r.hedge.maxExtraLoadPercent) == 0.0) || ({}))",
                in_time(of_route)
            ),
            "a route's hedge.after must be shorter than its attempt and request timeouts (after inheriting what it leaves out): \
             a try would end before a second is sent; set another after, or maxExtraLoadPercent: 0 for no hedging",
        ),
    ]
}

pub(crate) fn target_rules() -> Value {
    rules([
        (
            "!has(self.group) || self.group == ''",
            "group must be empty: Service and Namespace belong to the core API group",
        ),
        (
            "self.kind != 'Namespace' || (!has(self.__namespace__) && !has(self.sectionName))",
            "a Namespace target takes neither namespace nor sectionName: it is always the object's own namespace, as a whole",
        ),
    ])
}

pub(crate) fn timeout_rules() -> Value {
    rules([(
        "!has(self.attempt) || !has(self.request) || duration(self.attempt) <= duration(self.request)",
        "attempt is longer than request: one try could never finish; shorten attempt or lengthen request",
    )])
}

const WINDOW: (&str, &str) = (
    "!has(self.window) || (duration(self.window) >= duration('1s') && duration(self.window) <= duration('1h'))",
    "window must be between 1s and 1h",
);

pub(crate) fn budget_rules() -> Value {
    rules([WINDOW])
}

pub(crate) fn trip_rules() -> Value {
    rules([(
        "has(self.consecutiveFailures) || has(self.failureRate) || has(self.slowCalls)",
        "tripOn names nothing: set consecutiveFailures, failureRate or slowCalls, or leave tripOn out for its default",
    )])
}

pub(crate) fn rate_rules() -> Value {
    rules([
        WINDOW,
        (
            "double(self.percent) > 0.0",
            "percent must be above 0: a breaker that opens at no failure at all would never close",
        ),
    ])
}

pub(crate) fn open_for_rules() -> Value {
    rules([(
        "!has(self.initial) || !has(self.max) || duration(self.initial) <= duration(self.max)",
        "openFor.initial is longer than openFor.max",
    )])
}

pub(crate) fn deviation_rules() -> Value {
    rules([
        WINDOW,
        (
            "!has(self.aboveOthers) || (double(self.aboveOthers) > 0.0 && double(self.aboveOthers) < 100.0)",
            "aboveOthers must be above 0 and below 100: no endpoint fails more than a hundred of a hundred tries",
        ),
    ])
}

pub(crate) fn eject_for_rules() -> Value {
    rules([
        (
            "!has(self.initial) || !has(self.max) || duration(self.initial) <= duration(self.max)",
            "ejectFor.initial is longer than ejectFor.max",
        ),
        (
            "!has(self.initial) || duration(self.initial) >= duration('100ms')",
            "ejectFor.initial must be at least 100ms: a shorter ejection is over before it spares anybody a request",
        ),
    ])
}

pub(crate) fn health_rules() -> Value {
    rules([
        (
            "[has(self.http), has(self.grpc), has(self.tcp)].filter(set, set).size() == 1",
            "a health check asks in one way: set exactly one of http, grpc and tcp",
        ),
        (
            "!has(self.interval) || (duration(self.interval) >= duration('100ms') && duration(self.interval) <= duration('1h'))",
            "interval must be between 100ms and 1h",
        ),
        (
            "!has(self.timeout) || duration(self.timeout) <= (has(self.interval) ? duration(self.interval) : duration('5s'))",
            "timeout is longer than interval (5s unless it is set): a check would not be over when the next one is due",
        ),
    ])
}

pub(crate) fn recovery_rules() -> Value {
    rules([(
        "!has(self.startPercent) || double(self.startPercent) >= 1.0",
        "startPercent must be at least 1: with less a recovery would never begin",
    )])
}

pub(crate) fn backoff_rules() -> Value {
    rules([(
        "!has(self.base) || !has(self.max) || duration(self.base) <= duration(self.max)",
        "backoff.base is longer than backoff.max",
    )])
}

pub(crate) fn bulkhead_rules() -> Value {
    rules([(
        "has(self.maxConnections) || has(self.maxRequests)",
        "a bulkhead needs maxConnections or maxRequests: without one of them nothing ever waits",
    )])
}

pub(crate) fn concurrency_rules() -> Value {
    rules([
        ("!has(self.min) || !has(self.max) || self.min <= self.max", "min is larger than max: no limit could be both"),
        (
            "!has(self.initial) || ((!has(self.min) || self.min <= self.initial) && (!has(self.max) || self.initial <= self.max))",
            "initial must be between min and max",
        ),
    ])
}

pub(crate) fn balancing_rules() -> Value {
    rules([
        (
            "has(self.algorithm) && self.algorithm == 'Hash' ? has(self.hash) : !has(self.hash)",
            "algorithm: Hash and hash go together: set both, or neither",
        ),
        (
            "!has(self.slowStart) || (duration(self.slowStart) >= duration('1s') && duration(self.slowStart) <= duration('1h'))",
            "slowStart must be between 1s and 1h",
        ),
    ])
}

pub(crate) fn hash_rules() -> Value {
    rules([("has(self.header) != has(self.cookie)", "a hash is by either header or cookie: set one of them")])
}

pub(crate) fn route_rules() -> Value {
    rules([
        (
            "has(self.timeouts) || has(self.retries) || has(self.hedge)",
            "the route changes nothing: set timeouts, retries or hedge",
        ),
        (
            "!has(self.retries) || !has(self.retries.budget)",
            "budget belongs to the policy, not to a route: it protects the callee, whichever route is taken",
        ),
    ])
}

pub(crate) fn expression_rules() -> Value {
    rules([(
        "self.operator in ['In', 'NotIn'] ? has(self.values) && size(self.values) > 0 : !has(self.values) || size(self.values) == 0",
        "In and NotIn need values; Exists and DoesNotExist take none",
    )])
}

pub(crate) fn path_rules() -> Value {
    rules([
        ("has(self.exact) != has(self.prefix)", "a path match is either exact or prefix: set one of them"),
        (
            "(!has(self.exact) || self.exact.startsWith('/')) && (!has(self.prefix) || self.prefix.startsWith('/'))",
            "a path starts with /",
        ),
    ])
}

pub(crate) fn value_rules() -> Value {
    rules([("has(self.exact) != has(self.prefix)", "a header match is either exact or prefix: set one of them")])
}

pub(crate) fn fault_spec_rules() -> Value {
    // Every field but `suspend`; an optional one may neither change nor come or go.
    let unchanged = ["targetRefs", "from", "match", "faults", "at", "duration", "seed", "blastRadius"]
        .map(|field| {
            format!(
                "has(self.{field}) == has(oldSelf.{field}) && (!has(self.{field}) || self.{field} == oldSelf.{field})"
            )
        })
        .join(" && ");
    rules([
        UNIQUE_TARGETS,
        (
            "!has(self.at) || self.at != 'Inbound' || !has(self.from)",
            "at: Inbound acts beside the callee, whose proxy does not know the caller's pod: leave from out, or choose at: Attempt \
             or Request",
        ),
        ("has(self.duration)", "duration is missing: a fault must have an end, at most 24h after its start"),
        (
            "!has(self.duration) || duration(self.duration) <= duration('24h')",
            "duration is longer than 24h: a fault that outlives the day is an outage; split the experiment",
        ),
        (
            &unchanged,
            "a FaultSpec cannot be changed after creation, except for suspend: delete it and create another, so that what \
             ran stays on record",
        ),
    ])
}

pub(crate) fn fault_rules() -> Value {
    rules([(
        "(has(self.delay) ? 1 : 0) + (has(self.abort) ? 1 : 0) + (has(self.truncate) ? 1 : 0) \
         + (has(self.throttle) ? 1 : 0) == 1",
        "each entry of faults is exactly one of delay, abort, truncate and throttle: write two entries for two faults",
    )])
}

pub(crate) fn delay_rules() -> Value {
    rules([
        (
            "(has(self.fixed) ? 1 : 0) + (has(self.min) || has(self.max) ? 1 : 0) + (has(self.p50) || has(self.p99) ? 1 : 0) == 1",
            "a delay is exactly one of fixed, min with max, and p50 with p99",
        ),
        ("has(self.min) == has(self.max)", "a range of delays needs both min and max"),
        ("has(self.p50) == has(self.p99)", "a spread of delays needs both p50 and p99"),
        (
            "!has(self.min) || !has(self.max) || duration(self.min) <= duration(self.max)",
            "min is longer than max: no delay could be both",
        ),
        (
            "!has(self.p50) || !has(self.p99) || duration(self.p50) <= duration(self.p99)",
            "p50 is longer than p99: half of the delays cannot be longer than nearly all of them",
        ),
    ])
}

pub(crate) fn abort_rules() -> Value {
    rules([(
        "(has(self.httpStatus) ? 1 : 0) + (has(self.grpcStatus) ? 1 : 0) + (has(self.reset) && self.reset ? 1 : 0) \
         + (has(self.refuse) && self.refuse ? 1 : 0) + (has(self.blackhole) && self.blackhole ? 1 : 0) \
         + (has(self.resetAfterHeaders) && self.resetAfterHeaders ? 1 : 0) == 1",
        "an abort is exactly one of httpStatus, grpcStatus, reset: true, refuse: true, blackhole: true and \
         resetAfterHeaders: true",
    )])
}

/// A map of labels, bounded as Kubernetes bounds a label's value.
pub(super) fn labels(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 16,
        "additionalProperties": {"type": "string", "maxLength": 63},
    })
}

impl JsonSchema for Duration {
    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "pattern": duration::PATTERN,
            "maxLength": 28,
            "x-kubernetes-validations": rules([(
                "duration(self) > duration('0s')",
                "must be longer than 0s: to switch a limit off, leave it out",
            )]),
        })
    }
}

impl JsonSchema for Percent {
    fn schema_name() -> Cow<'static, str> {
        "Percent".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "x-kubernetes-int-or-string": true,
            "maxLength": 8,
            "x-kubernetes-validations": rules([(
                // Not by `type(self)`, which not every implementation of CEL has; both forms print the same digits.
                "string(self).matches('^[0-9]{1,3}([.][0-9]{1,4})?$') && double(self) <= 100.0",
                "a percentage is an integer from 0 to 100, or a string with at most four decimals such as \"0.1\"",
            )]),
        })
    }
}
