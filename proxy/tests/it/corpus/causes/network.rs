//! Connections that do not open, break, or lead to somebody else.

use super::{
    super::peers::{
        Act::{Ends, GoesAway, Part, Raw, ResetsStream},
        End::{Close, Reset},
        Rest,
    },
    ANY, Before, Caller, Cause, Domain, GRPC, HTTP1, NOT_GRPC, PLAIN, Reason, STREAMS, Script, Told,
};

/// What a server that speaks TLS says to what is no TLS: a fatal alert.
const TLS_ALERT: &[u8] = b"\x15\x03\x01\x00\x02\x02\x46";

pub(super) const CAUSES: &[Cause] = &[
    Cause {
        name: "no endpoint",
        peer: Script::Absent,
        reason: Reason::NoEndpoints,
        domain: Domain::CalleePlatform,
        ..PLAIN
    },
    Cause {
        name: "nobody listens",
        peer: Script::Refuses,
        reason: Reason::ConnectionRefused,
        domain: Domain::CalleePlatform,
        ..PLAIN
    },
    Cause {
        name: "nobody listens, after retries",
        policy: r#"{"retries": {"maxRetries": 2, "conditions": ["connect-failure"], "backoff": {"base": "1ms"}}}"#,
        peer: Script::Refuses,
        reason: Reason::ConnectionRefused,
        domain: Domain::CalleePlatform,
        ..PLAIN
    },
    Cause {
        name: "no route",
        peer: Script::Unroutable,
        reason: Reason::ConnectFailed,
        domain: Domain::Network,
        ..PLAIN
    },
    Cause {
        name: "connection does not open, connect time-out",
        policy: r#"{"timeouts": {"connect": "150ms"}}"#,
        peer: Script::Swallows,
        reason: Reason::ConnectTimeout,
        domain: Domain::Network,
        ..PLAIN
    },
    Cause {
        name: "connection does not open, attempt time-out",
        policy: r#"{"timeouts": {"connect": "1m", "attempt": "150ms"}}"#,
        peer: Script::Swallows,
        reason: Reason::AttemptTimeout,
        domain: Domain::Network,
        ..PLAIN
    },
    Cause {
        name: "connection does not open, request time-out",
        policy: r#"{"timeouts": {"connect": "1m", "request": "150ms"}}"#,
        peer: Script::Swallows,
        reason: Reason::RequestTimeout,
        domain: Domain::Network,
        ..PLAIN
    },
    Cause {
        name: "connection closed as soon as open",
        peer: Script::Accepts(Close),
        reason: Reason::ConnectionReset,
        domain: Domain::CalleeApp,
        ..PLAIN
    },
    Cause {
        name: "connection reset as soon as open",
        peer: Script::Accepts(Reset),
        reason: Reason::ConnectionReset,
        domain: Domain::CalleeApp,
        ..PLAIN
    },
    Cause {
        name: "connection closed before the answer",
        peer: Script::Does(Ends(Close)),
        reason: Reason::ConnectionReset,
        domain: Domain::CalleeApp,
        ..PLAIN
    },
    Cause {
        name: "connection reset before the answer",
        peer: Script::Does(Ends(Reset)),
        reason: Reason::ConnectionReset,
        domain: Domain::CalleeApp,
        ..PLAIN
    },
    Cause {
        name: "kept connection closed when used again after a rest",
        peer: Script::After(1, Ends(Close)),
        before: Before::Rests,
        caller: Caller::Posts,
        reason: Reason::StaleConnection,
        domain: Domain::Network,
        ..PLAIN
    },
    Cause {
        name: "kept connection closed when used again at once",
        peer: Script::After(1, Ends(Close)),
        before: Before::Calls(1),
        caller: Caller::Posts,
        reason: Reason::ConnectionReset,
        domain: Domain::CalleeApp,
        ..PLAIN
    },
    Cause {
        name: "reset in the middle of the body",
        on: NOT_GRPC,
        peer: Script::Does(Part(Rest::Ends(Reset))),
        reason: Reason::ResponseIncomplete,
        domain: Domain::CalleeApp,
        told: Told::Nobody,
        ..PLAIN
    },
    Cause {
        name: "reset in the middle of the body",
        on: GRPC,
        peer: Script::Does(Part(Rest::Ends(Reset))),
        reason: Reason::ResponseIncomplete,
        domain: Domain::CalleeApp,
        ..PLAIN
    },
    Cause {
        name: "closed in the middle of the body",
        on: NOT_GRPC,
        peer: Script::Does(Part(Rest::Ends(Close))),
        reason: Reason::ResponseIncomplete,
        domain: Domain::CalleeApp,
        told: Told::Nobody,
        ..PLAIN
    },
    Cause {
        name: "closed in the middle of the body",
        on: GRPC,
        peer: Script::Does(Part(Rest::Ends(Close))),
        reason: Reason::ResponseIncomplete,
        domain: Domain::CalleeApp,
        ..PLAIN
    },
    Cause {
        name: "bytes that are no answer",
        peer: Script::Does(Raw(b"I do not speak your language.\r\n\r\n")),
        reason: Reason::ProtocolError,
        domain: Domain::CalleeApp,
        ..PLAIN
    },
    Cause {
        name: "TLS spoken at the port",
        peer: Script::Says(TLS_ALERT),
        reason: Reason::ProtocolError,
        domain: Domain::CalleeApp,
        ..PLAIN
    },
    Cause {
        name: "only HTTP/2 spoken at the port",
        on: HTTP1,
        peer: Script::Says(b"\0\0\0\x04\0\0\0\0\0\0\0\x08\x07\0\0\0\0\0\0\0\0\0\0\0\0\x01"),
        reason: Reason::ProtocolError,
        domain: Domain::CalleeApp,
        ..PLAIN
    },
    Cause {
        name: "only HTTP/1 spoken at the port",
        on: STREAMS,
        peer: Script::Says(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"),
        reason: Reason::ProtocolError,
        domain: Domain::CalleeApp,
        ..PLAIN
    },
    Cause {
        name: "RST_STREAM REFUSED_STREAM",
        on: STREAMS,
        peer: Script::Does(ResetsStream(7)),
        reason: Reason::StreamRefused,
        domain: Domain::CalleeApp,
        ..PLAIN
    },
    Cause {
        name: "RST_STREAM INTERNAL_ERROR before the answer",
        on: STREAMS,
        peer: Script::Does(ResetsStream(2)),
        reason: Reason::ConnectionReset,
        domain: Domain::CalleeApp,
        ..PLAIN
    },
    Cause {
        name: "RST_STREAM CANCEL before the answer",
        on: STREAMS,
        peer: Script::Does(ResetsStream(8)),
        reason: Reason::ConnectionReset,
        domain: Domain::CalleeApp,
        ..PLAIN
    },
    Cause {
        name: "RST_STREAM PROTOCOL_ERROR before the answer",
        on: STREAMS,
        peer: Script::Does(ResetsStream(1)),
        reason: Reason::ProtocolError,
        domain: Domain::CalleeApp,
        ..PLAIN
    },
    Cause {
        name: "GOAWAY again and again, streams not looked at",
        on: STREAMS,
        peer: Script::Does(GoesAway { looks: false }),
        reason: Reason::StreamRefused,
        domain: Domain::CalleeApp,
        ..PLAIN
    },
    Cause {
        name: "GOAWAY and a close while the stream is looked at",
        on: STREAMS,
        peer: Script::Does(GoesAway { looks: true }),
        reason: Reason::ConnectionReset,
        domain: Domain::CalleeApp,
        ..PLAIN
    },
    Cause {
        name: "connection lost, retried in vain",
        on: ANY,
        policy: r#"{"retries": {"maxRetries": 2, "conditions": ["reset-before-response"], "backoff": {"base": "1ms"}}}"#,
        peer: Script::Does(Ends(Reset)),
        reason: Reason::ConnectionReset,
        domain: Domain::CalleeApp,
        ..PLAIN
    },
];
