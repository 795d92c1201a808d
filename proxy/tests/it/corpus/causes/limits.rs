//! Limits: of the caller's policy, and of the proxy itself.

use super::{
    super::peers::Act::{Answer, Silence},
    ANY, Before, Caller, Cause, Domain, GRPC, NOT_GRPC, PLAIN, Reason, Script, Setup, Told,
};

const LIMIT: Cause = Cause { domain: Domain::CallerPolicy, ..PLAIN };

/// A breaker that two failures open.
const BREAKER: &str =
    r#"{"circuitBreaker": {"tripOn": {"consecutiveFailures": 2}, "openFor": {"initial": "1m", "max": "1m"}}}"#;

/// What the proxy beside the callee says of a request that it did not let in.
const OVERLOAD: &str = "\"service2-0\"; error=connection_limit_reached; firebreak-reason=overload; firebreak-domain=callee_app; \
                        firebreak-attempts=0; details=\"-\"";

pub(super) const CAUSES: &[Cause] = &[
    Cause {
        name: "breaker open after errors",
        on: NOT_GRPC,
        policy: BREAKER,
        peer: Script::Does(Answer(503, &[])),
        before: Before::Calls(2),
        reason: Reason::BreakerOpen,
        ..LIMIT
    },
    Cause {
        name: "breaker open after errors",
        on: GRPC,
        policy: BREAKER,
        peer: Script::Does(Answer(200, &[("content-type", "application/grpc"), ("grpc-status", "14")])),
        before: Before::Calls(2),
        reason: Reason::BreakerOpen,
        ..LIMIT
    },
    Cause {
        name: "breaker open after refused connections",
        policy: BREAKER,
        peer: Script::Refuses,
        before: Before::Calls(2),
        reason: Reason::BreakerOpen,
        ..LIMIT
    },
    Cause {
        name: "bulkhead full, nobody may wait",
        policy: r#"{"bulkhead": {"maxRequests": 1, "maxPending": 0}}"#,
        peer: Script::Does(Silence),
        before: Before::Holds(1),
        reason: Reason::BulkheadFull,
        ..LIMIT
    },
    Cause {
        name: "bulkhead full, wait too long",
        policy: r#"{"bulkhead": {"maxRequests": 1, "maxPending": 1, "maxPendingTime": "150ms"}}"#,
        peer: Script::Does(Silence),
        before: Before::Holds(1),
        reason: Reason::BulkheadTimeout,
        ..LIMIT
    },
    Cause {
        name: "request time-out in the bulkhead's queue",
        policy: r#"{"timeouts": {"request": "150ms"}, "bulkhead": {"maxRequests": 1, "maxPending": 1, "maxPendingTime": "1m"},
            "routes": [{"match": {"path": {"prefix": "/held"}}, "timeouts": {"request": "1m"}}]}"#,
        peer: Script::Does(Silence),
        before: Before::Holds(1),
        reason: Reason::RequestTimeout,
        ..LIMIT
    },
    Cause {
        name: "rate limit reached",
        policy: r#"{"rateLimit": {"requestsPerSecond": 1, "burst": 1}}"#,
        before: Before::Calls(1),
        reason: Reason::RateLimited,
        ..LIMIT
    },
    Cause {
        name: "callee's own limit reached",
        on: NOT_GRPC,
        peer: Script::Does(Answer(503, &[("proxy-status", OVERLOAD)])),
        reason: Reason::Overload,
        domain: Domain::CalleeApp,
        ..PLAIN
    },
    Cause {
        name: "callee's own limit reached",
        on: GRPC,
        peer: Script::Does(Answer(
            200,
            &[("content-type", "application/grpc"), ("grpc-status", "8"), ("proxy-status", OVERLOAD)],
        )),
        reason: Reason::Overload,
        domain: Domain::CalleeApp,
        ..PLAIN
    },
    Cause {
        name: "a connection too many from callers",
        on: ANY,
        proxy: Setup::OneConnection,
        before: Before::Keeps,
        caller: Caller::Connects,
        reason: Reason::TooManyConnections,
        domain: Domain::Mesh,
        told: Told::Nobody,
        ..PLAIN
    },
    Cause {
        name: "proxy called by its own address",
        on: ANY,
        proxy: Setup::CalledItself,
        caller: Caller::Connects,
        reason: Reason::LoopDetected,
        domain: Domain::Mesh,
        told: Told::Nobody,
        ..PLAIN
    },
];
