//! The caller: it leaves, breaks off, is out of time, or says what is no request.

use super::{
    super::peers::{
        Act::{Part, Silence},
        Rest,
    },
    ANY, Before, Caller, Cause, Domain, GRPC, HTTP1, NOT_GRPC, PLAIN, Reason, STREAMS, Script, Setup, Told,
};

const CALLER: Cause = Cause { domain: Domain::Caller, ..PLAIN };

pub(super) const CAUSES: &[Cause] = &[
    Cause {
        name: "caller leaves before the answer",
        peer: Script::Does(Silence),
        caller: Caller::Leaves,
        reason: Reason::CallerCancelled,
        told: Told::Nobody,
        ..CALLER
    },
    Cause {
        name: "caller leaves in the middle of the body",
        peer: Script::Does(Part(Rest::Silence)),
        caller: Caller::LeavesMidway,
        reason: Reason::CallerCancelled,
        told: Told::Nobody,
        ..CALLER
    },
    Cause {
        name: "caller breaks off its request's body",
        on: HTTP1,
        caller: Caller::BreaksOff,
        reason: Reason::RequestIncomplete,
        told: Told::Nobody,
        ..CALLER
    },
    // By RST_STREAM CANCEL, which says that it wants no answer either.
    Cause {
        name: "caller breaks off its request's body",
        on: STREAMS,
        caller: Caller::BreaksOff,
        reason: Reason::CallerCancelled,
        told: Told::Nobody,
        ..CALLER
    },
    // The HTTP library resets the stream and takes the request back, as if the caller had done so.
    Cause {
        name: "request's stream ended short of its content-length",
        on: STREAMS,
        caller: Caller::EndsShort,
        reason: Reason::CallerCancelled,
        told: Told::Nobody,
        ..CALLER
    },
    Cause {
        name: "caller's deadline over before the request is sent",
        on: NOT_GRPC,
        caller: Caller::Calls(&[("firebreak-deadline-ms", "0")]),
        reason: Reason::DeadlineSpent,
        ..CALLER
    },
    Cause {
        name: "caller's deadline over before the request is sent",
        on: GRPC,
        caller: Caller::Calls(&[("grpc-timeout", "0m")]),
        reason: Reason::DeadlineSpent,
        ..CALLER
    },
    Cause {
        name: "caller's deadline over in the bulkhead's queue",
        policy: r#"{"bulkhead": {"maxRequests": 1, "maxPending": 1, "maxPendingTime": "1m"}}"#,
        peer: Script::Does(Silence),
        before: Before::Holds(1),
        caller: Caller::Calls(&[("x-envoy-expected-rq-timeout-ms", "150")]),
        reason: Reason::DeadlineSpent,
        ..CALLER
    },
    Cause {
        name: "bytes that are no request",
        on: HTTP1,
        caller: Caller::Says(b"nonsense\r\n\r\n"),
        reason: Reason::RequestMalformed,
        ..CALLER
    },
    Cause {
        name: "field of the request's head without a colon",
        on: HTTP1,
        caller: Caller::Says(b"GET / HTTP/1.1\r\nno colon\r\n\r\n"),
        reason: Reason::RequestMalformed,
        ..CALLER
    },
    Cause {
        name: "head of the request that does not end",
        on: HTTP1,
        proxy: Setup::ShortHeads,
        caller: Caller::Says(b"GET / HTTP/1.1\r\nhost: callee\r\n"),
        reason: Reason::RequestHeadTimeout,
        ..CALLER
    },
    Cause {
        name: "head of the request with 120 fields",
        on: HTTP1,
        caller: Caller::BigHead(120, 1),
        reason: Reason::RequestHeadTooLarge,
        ..CALLER
    },
    Cause {
        name: "head of the request of 70 KiB",
        on: ANY,
        caller: Caller::BigHead(7, 10_240),
        reason: Reason::RequestHeadTooLarge,
        ..CALLER
    },
];
