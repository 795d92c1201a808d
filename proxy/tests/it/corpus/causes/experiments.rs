//! Failures that a FaultSpec injects.

use super::{
    super::peers::{
        Act::{Answer, Part},
        Rest,
    },
    Cause, Domain, GRPC, HTTP1, NOT_GRPC, PLAIN, Reason, Script,
};

const INJECTED: Cause = Cause { domain: Domain::Injected, ..PLAIN };

/// A fault that lasts, whatever clock runs.
const DELAY: &str = r#"[{"delay": {"percent": 100, "fixed": "20s"}}]"#;

pub(super) const CAUSES: &[Cause] = &[
    Cause {
        name: "injected delay, attempt time-out",
        policy: r#"{"timeouts": {"attempt": "150ms"}}"#,
        faults: DELAY,
        reason: Reason::AttemptTimeout,
        ..INJECTED
    },
    Cause {
        name: "injected delay, request time-out",
        policy: r#"{"timeouts": {"request": "150ms"}}"#,
        faults: DELAY,
        reason: Reason::RequestTimeout,
        ..INJECTED
    },
    Cause {
        name: "injected error",
        on: NOT_GRPC,
        faults: r#"[{"abort": {"percent": 100, "httpStatus": 503}}]"#,
        reason: Reason::FaultAbort,
        ..INJECTED
    },
    Cause {
        name: "injected error",
        on: GRPC,
        faults: r#"[{"abort": {"percent": 100, "grpcStatus": 14}}]"#,
        reason: Reason::FaultAbort,
        ..INJECTED
    },
    Cause {
        name: "injected reset",
        faults: r#"[{"abort": {"percent": 100, "reset": true}}]"#,
        reason: Reason::FaultReset,
        ..INJECTED
    },
    Cause {
        name: "injected refusal",
        faults: r#"[{"abort": {"percent": 100, "refuse": true}}]"#,
        reason: Reason::FaultRefuse,
        ..INJECTED
    },
    Cause {
        name: "injected end of the body",
        on: HTTP1,
        faults: r#"[{"truncate": {"percent": 100, "afterBytes": 1}}]"#,
        peer: Script::Does(Part(Rest::Silence)),
        reason: Reason::FaultTruncate,
        ..INJECTED
    },
    Cause {
        name: "injected silence, attempt time-out",
        policy: r#"{"timeouts": {"attempt": "150ms"}}"#,
        faults: r#"[{"abort": {"percent": 100, "blackhole": true}}]"#,
        reason: Reason::AttemptTimeout,
        ..INJECTED
    },
    Cause {
        name: "injected silence that ends with the fault",
        faults: r#"[{"abort": {"percent": 100, "blackhole": true}}]"#,
        duration: "300ms",
        reason: Reason::FaultBlackhole,
        ..INJECTED
    },
    Cause {
        name: "injected delay, and an error of the callee's own",
        faults: r#"[{"delay": {"percent": 100, "fixed": "1ms"}}]"#,
        peer: Script::Does(Answer(503, &[])),
        reason: Reason::CalleeError,
        domain: Domain::CalleeApp,
        ..PLAIN
    },
];
