//! The callee's application: it is slow, it fails, it breaks off, or it says what nobody understands.

use super::{
    super::peers::{
        Act::{Answer, BigHead, Chunks, Part, Raw, ResetsStream, Silence, Trailers},
        End::Close,
        Rest,
    },
    ANY, Before, Caller, Cause, Domain, GRPC, HTTP1, HTTP2, NOT_GRPC, PLAIN, Reason, STREAMS, Script, Told,
};

/// As the callee's own proxy says it when its application failed because a call of its own did.
const DEPENDENCY: &str = "\"callee-pod\"; received-status=500; firebreak-reason=callee_error; \
                          firebreak-domain=callee_dependency; firebreak-attempts=1; \
                          firebreak-dependency=\"shop/db:5432\"; details=\"\"";

const ERROR: Cause = Cause { reason: Reason::CalleeError, domain: Domain::CalleeApp, ..PLAIN };
const BROKEN: Cause =
    Cause { reason: Reason::ResponseIncomplete, domain: Domain::CalleeApp, told: Told::Nobody, ..PLAIN };

macro_rules! grpc {
    ($status:literal) => {
        Script::Does(Answer(200, &[("content-type", "application/grpc"), ("grpc-status", $status)]))
    };
}

pub(super) const CAUSES: &[Cause] = &[
    Cause { name: "500", on: NOT_GRPC, peer: Script::Does(Answer(500, &[])), ..ERROR },
    Cause { name: "502 of the application's own", on: NOT_GRPC, peer: Script::Does(Answer(502, &[])), ..ERROR },
    Cause { name: "503", peer: Script::Does(Answer(503, &[])), ..ERROR },
    Cause { name: "504 of the application's own", on: NOT_GRPC, peer: Script::Does(Answer(504, &[])), ..ERROR },
    Cause {
        name: "503, retried in vain",
        policy: r#"{"retries": {"maxRetries": 2, "conditions": ["5xx"], "backoff": {"base": "1ms"}}}"#,
        peer: Script::Does(Answer(503, &[])),
        ..ERROR
    },
    Cause { name: "gRPC status 2 in the head", on: GRPC, peer: grpc!("2"), ..ERROR },
    Cause { name: "gRPC status 4 in the head", on: GRPC, peer: grpc!("4"), ..ERROR },
    Cause { name: "gRPC status 13 in the head", on: GRPC, peer: grpc!("13"), ..ERROR },
    Cause { name: "gRPC status 14 in the head", on: GRPC, peer: grpc!("14"), ..ERROR },
    Cause { name: "gRPC status 13 in the trailers", on: GRPC, peer: Script::Does(Trailers("13")), ..ERROR },
    Cause { name: "gRPC status 14 in the trailers", on: GRPC, peer: Script::Does(Trailers("14")), ..ERROR },
    Cause {
        name: "the callee's own callee answers 503",
        peer: Script::Depends,
        domain: Domain::CalleeDependency,
        ..ERROR
    },
    Cause {
        name: "the callee's own callee failed, gRPC status 13",
        on: GRPC,
        peer: Script::Does(Answer(
            200,
            &[("content-type", "application/grpc"), ("grpc-status", "13"), ("proxy-status", DEPENDENCY)],
        )),
        domain: Domain::CalleeDependency,
        ..ERROR
    },
    Cause {
        name: "the callee's own proxy did not reach it",
        peer: Script::WithoutApplication,
        reason: Reason::ConnectionRefused,
        domain: Domain::CalleePlatform,
        ..PLAIN
    },
    Cause {
        name: "no head in time, attempt time-out",
        policy: r#"{"timeouts": {"attempt": "150ms"}}"#,
        peer: Script::Does(Silence),
        reason: Reason::AttemptTimeout,
        domain: Domain::CalleeApp,
        ..PLAIN
    },
    Cause {
        name: "no head in time, request time-out",
        policy: r#"{"timeouts": {"request": "150ms"}}"#,
        peer: Script::Does(Silence),
        reason: Reason::RequestTimeout,
        domain: Domain::CalleeApp,
        ..PLAIN
    },
    Cause {
        name: "no head, idle time-out",
        policy: r#"{"timeouts": {"idle": "150ms"}}"#,
        peer: Script::Does(Silence),
        reason: Reason::IdleTimeout,
        domain: Domain::CalleeApp,
        ..PLAIN
    },
    Cause {
        name: "body too slow, request time-out",
        on: HTTP1,
        policy: r#"{"timeouts": {"request": "300ms"}}"#,
        peer: Script::Does(Chunks(Rest::Drips)),
        reason: Reason::RequestTimeout,
        ..BROKEN
    },
    Cause {
        name: "body too slow, request time-out",
        on: HTTP2,
        policy: r#"{"timeouts": {"request": "300ms"}}"#,
        peer: Script::Does(Part(Rest::Drips)),
        reason: Reason::RequestTimeout,
        ..BROKEN
    },
    Cause {
        name: "body too slow, request time-out",
        on: GRPC,
        policy: r#"{"timeouts": {"request": "300ms"}}"#,
        peer: Script::Does(Part(Rest::Drips)),
        reason: Reason::RequestTimeout,
        domain: Domain::CalleeApp,
        ..PLAIN
    },
    Cause {
        name: "silence in the middle of the body, idle time-out",
        on: NOT_GRPC,
        policy: r#"{"timeouts": {"idle": "200ms"}}"#,
        peer: Script::Does(Part(Rest::Silence)),
        reason: Reason::IdleTimeout,
        ..BROKEN
    },
    Cause {
        name: "silence in the middle of the body, idle time-out",
        on: GRPC,
        policy: r#"{"timeouts": {"idle": "200ms"}}"#,
        peer: Script::Does(Part(Rest::Silence)),
        reason: Reason::IdleTimeout,
        domain: Domain::CalleeApp,
        ..PLAIN
    },
    Cause {
        name: "no answer before the caller's deadline",
        on: NOT_GRPC,
        peer: Script::Does(Silence),
        caller: Caller::Calls(&[("x-envoy-expected-rq-timeout-ms", "150")]),
        reason: Reason::DeadlineExceeded,
        domain: Domain::CalleeApp,
        ..PLAIN
    },
    Cause {
        name: "no answer before the caller's deadline",
        on: GRPC,
        peer: Script::Does(Silence),
        caller: Caller::Calls(&[("grpc-timeout", "150m")]),
        reason: Reason::DeadlineExceeded,
        domain: Domain::CalleeApp,
        ..PLAIN
    },
    Cause { name: "chunked body closed early", on: HTTP1, peer: Script::Does(Chunks(Rest::Ends(Close))), ..BROKEN },
    Cause {
        name: "chunk without a length",
        on: HTTP1,
        peer: Script::Does(Chunks(Rest::Raw(b"no length\r\n"))),
        ..BROKEN
    },
    Cause {
        name: "stream ended short of its content-length",
        on: HTTP2,
        peer: Script::Does(Part(Rest::Short)),
        ..BROKEN
    },
    Cause {
        name: "RST_STREAM INTERNAL_ERROR in the middle of the body",
        on: HTTP2,
        peer: Script::Does(Part(Rest::ResetsStream(2))),
        ..BROKEN
    },
    Cause {
        name: "RST_STREAM INTERNAL_ERROR in the middle of the body",
        on: GRPC,
        peer: Script::Does(Part(Rest::ResetsStream(2))),
        reason: Reason::ResponseIncomplete,
        domain: Domain::CalleeApp,
        ..PLAIN
    },
    Cause {
        name: "garbage in the middle of the body",
        on: HTTP2,
        peer: Script::Does(Part(Rest::Raw(b"I do not speak your language.\r\n\r\n"))),
        ..BROKEN
    },
    Cause {
        name: "garbage in the middle of the body",
        on: GRPC,
        peer: Script::Does(Part(Rest::Raw(b"I do not speak your language.\r\n\r\n"))),
        reason: Reason::ResponseIncomplete,
        domain: Domain::CalleeApp,
        ..PLAIN
    },
    Cause {
        name: "field of the head without a colon",
        on: HTTP1,
        peer: Script::Does(Raw(b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n")),
        reason: Reason::ProtocolError,
        domain: Domain::CalleeApp,
        ..PLAIN
    },
    Cause {
        name: "two lengths that differ",
        on: HTTP1,
        peer: Script::Does(Raw(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab")),
        reason: Reason::ProtocolError,
        domain: Domain::CalleeApp,
        ..PLAIN
    },
    Cause {
        name: "head closed in the middle",
        on: HTTP1,
        peer: Script::Does(Raw(b"HTTP/1.1 200 OK\r\nx-half: ")),
        reason: Reason::ConnectionReset,
        domain: Domain::CalleeApp,
        ..PLAIN
    },
    Cause {
        name: "RST_STREAM HTTP_1_1_REQUIRED",
        on: STREAMS,
        peer: Script::Does(ResetsStream(13)),
        reason: Reason::ProtocolError,
        domain: Domain::CalleeApp,
        ..PLAIN
    },
    Cause {
        name: "head of the answer with 120 fields",
        on: HTTP1,
        peer: Script::Does(BigHead(120, 1)),
        reason: Reason::ResponseHeadTooLarge,
        domain: Domain::Mesh,
        ..PLAIN
    },
    Cause {
        name: "head of the answer of 70 KiB",
        on: ANY,
        peer: Script::Does(BigHead(7, 10_240)),
        reason: Reason::ResponseHeadTooLarge,
        domain: Domain::Mesh,
        ..PLAIN
    },
    Cause {
        name: "no head on a connection used before, attempt time-out",
        policy: r#"{"timeouts": {"attempt": "150ms"}}"#,
        peer: Script::After(1, Silence),
        before: Before::Calls(1),
        reason: Reason::AttemptTimeout,
        domain: Domain::CalleeApp,
        ..PLAIN
    },
];
