//! Why a request or a try ended otherwise than by the callee's answer.

use http::StatusCode;

use crate::policy::{bulkhead::Refused, concurrency};

/// A stable reason. The order is that of [`REASONS`] and of nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The connection was not open in time: `timeouts.connect`, or the kernel's own patience.
    ConnectTimeout,
    /// Nobody listens at the callee's address.
    ConnectionRefused,
    /// The connection could not be opened for another cause: no route, no file descriptor left.
    ConnectFailed,
    /// The connection ended before the response began.
    ConnectionReset,
    /// A connection that was used again had been closed by the callee, which lets connections be idle for less long.
    StaleConnection,
    /// HTTP/2: the callee refused the stream before it did anything with it.
    StreamRefused,
    /// One try took too long (`timeouts.attempt`).
    AttemptTimeout,
    /// The whole request took too long (`timeouts.request`).
    RequestTimeout,
    /// Nothing moved for too long (`timeouts.idle`).
    IdleTimeout,
    /// The caller's own deadline passed while the callee worked.
    DeadlineExceeded,
    /// The caller's own deadline had passed before anything was sent.
    DeadlineSpent,
    /// The caller has sent too many requests.
    RateLimited,
    /// The bulkhead and its queue are full.
    BulkheadFull,
    /// The request waited in the bulkhead's queue as long as it may.
    BulkheadTimeout,
    /// The breaker is open, or admits no more for now.
    BreakerOpen,
    /// The application has as much to do as it can, and no more may wait.
    Overload,
    /// A FaultSpec answered in the callee's place.
    FaultAbort,
    /// A FaultSpec cut the try as a reset would.
    FaultReset,
    /// A FaultSpec ended the try as if nobody listened.
    FaultRefuse,
    /// A FaultSpec let the try hang until the fault itself ended.
    FaultBlackhole,
    /// A FaultSpec cut the answer's body.
    FaultTruncate,
    /// The callee has no endpoint.
    NoEndpoints,
    /// The callee broke the protocol.
    ProtocolError,
    /// The callee did not switch protocols as it announced.
    UpgradeFailed,
    /// The response broke off after it had begun.
    ResponseIncomplete,
    /// The callee answered with a server error, which was passed on.
    CalleeError,
    /// The caller went away before the response was complete.
    CallerCancelled,
    /// The request would come back to this proxy for ever.
    LoopDetected,
    /// The callers have as many connections open as this proxy has memory for.
    TooManyConnections,
    /// The proxy itself has nothing left to open a connection with.
    OutOfResources,
    /// The request's body ended or failed before it was complete.
    RequestIncomplete,
    /// What the caller sent is not HTTP.
    RequestMalformed,
    /// The head of the request is longer than the proxy takes.
    RequestHeadTooLarge,
    /// The rest of the request's head did not come in time.
    RequestHeadTimeout,
    /// The head of the response is longer than the proxy takes.
    ResponseHeadTooLarge,
    /// A defect of the proxy.
    Internal,
}

/// Whose problem it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Domain {
    /// The caller's application.
    Caller,
    /// A limit of the policy that the caller's side enforces.
    CallerPolicy,
    /// What lies between the two.
    Network,
    /// Where the callee runs: no pod, no listener.
    CalleePlatform,
    /// The callee's application.
    CalleeApp,
    /// What the callee's application called in its turn.
    CalleeDependency,
    /// An experiment.
    Injected,
    /// Firebreak itself.
    Mesh,
}

/// All reasons, for tables indexed by `Reason as usize`.
pub const REASONS: [Reason; 36] = [
    Reason::ConnectTimeout,
    Reason::ConnectionRefused,
    Reason::ConnectFailed,
    Reason::ConnectionReset,
    Reason::StaleConnection,
    Reason::StreamRefused,
    Reason::AttemptTimeout,
    Reason::RequestTimeout,
    Reason::IdleTimeout,
    Reason::DeadlineExceeded,
    Reason::DeadlineSpent,
    Reason::RateLimited,
    Reason::BulkheadFull,
    Reason::BulkheadTimeout,
    Reason::BreakerOpen,
    Reason::Overload,
    Reason::FaultAbort,
    Reason::FaultReset,
    Reason::FaultRefuse,
    Reason::FaultBlackhole,
    Reason::FaultTruncate,
    Reason::NoEndpoints,
    Reason::ProtocolError,
    Reason::UpgradeFailed,
    Reason::ResponseIncomplete,
    Reason::CalleeError,
    Reason::CallerCancelled,
    Reason::LoopDetected,
    Reason::TooManyConnections,
    Reason::OutOfResources,
    Reason::RequestIncomplete,
    Reason::RequestMalformed,
    Reason::RequestHeadTooLarge,
    Reason::RequestHeadTimeout,
    Reason::ResponseHeadTooLarge,
    Reason::Internal,
];

/// What is said of a reason.
struct Said {
    name: &'static str,
    /// RFC 9209, 2.3; empty where the proxy adds nothing to what the callee said.
    error: &'static str,
    status: StatusCode,
    /// gRPC status code, as gRPC clients must see it: 4 for time-outs, 8 for limits, 14 where the callee was not reached.
    grpc: u8,
    domain: Domain,
    /// One sentence for the person who reads the response.
    details: &'static str,
}

/// What is said of each reason, in their order.
#[rustfmt::skip]
static SAID: [Said; REASONS.len()] = {
    use Domain::{CalleeApp, CalleePlatform, Caller, CallerPolicy, Injected, Mesh, Network};
    use StatusCode as S;
    [
        said("connect_timeout", "connection_timeout", S::GATEWAY_TIMEOUT, 14, Network,
            "the connection was not open in time"),
        said("connection_refused", "connection_refused", S::BAD_GATEWAY, 14, CalleePlatform,
            "nobody listens at the callee's address"),
        said("connect_failed", "destination_ip_unroutable", S::BAD_GATEWAY, 14, Network,
            "the connection could not be opened"),
        said("connection_reset", "connection_terminated", S::BAD_GATEWAY, 14, CalleeApp,
            "the callee closed the connection before it answered"),
        said("stale_connection", "connection_terminated", S::BAD_GATEWAY, 14, Network,
            "the callee had closed the idle connection that the request was sent on"),
        said("stream_refused", "connection_terminated", S::SERVICE_UNAVAILABLE, 14, CalleeApp,
            "the callee refused the stream without processing it"),
        said("attempt_timeout", "http_response_timeout", S::GATEWAY_TIMEOUT, 4, CalleeApp,
            "no response headers within timeouts.attempt, and no try was left"),
        said("request_timeout", "http_response_timeout", S::GATEWAY_TIMEOUT, 4, CalleeApp,
            "the request was not complete within timeouts.request"),
        said("idle_timeout", "connection_read_timeout", S::GATEWAY_TIMEOUT, 4, CalleeApp,
            "no byte moved for timeouts.idle"),
        said("deadline_exceeded", "http_response_timeout", S::GATEWAY_TIMEOUT, 4, CalleeApp,
            "the request was not complete within the caller's own deadline"),
        said("deadline_spent", "proxy_internal_response", S::GATEWAY_TIMEOUT, 4, Caller,
            "the caller's own deadline had passed before the request could be sent"),
        said("rate_limited", "connection_limit_reached", S::TOO_MANY_REQUESTS, 8, CallerPolicy,
            "the caller has sent more requests than its rate limit allows"),
        said("bulkhead_full", "connection_limit_reached", S::SERVICE_UNAVAILABLE, 8, CallerPolicy,
            "the callee's bulkhead is full and as many requests wait as may"),
        said("bulkhead_timeout", "connection_limit_reached", S::SERVICE_UNAVAILABLE, 8, CallerPolicy,
            "no place in the callee's bulkhead became free in time"),
        said("breaker_open", "destination_unavailable", S::SERVICE_UNAVAILABLE, 14, CallerPolicy,
            "the callee has failed too often and is left alone for a while"),
        said("overload", "connection_limit_reached", S::SERVICE_UNAVAILABLE, 8, CalleeApp,
            "the callee has as much to do as it can, and its own proxy let no more in"),
        said("fault_abort", "proxy_internal_response", S::SERVICE_UNAVAILABLE, 14, Injected,
            "a FaultSpec answered in the callee's place"),
        said("fault_reset", "connection_terminated", S::BAD_GATEWAY, 14, Injected,
            "a FaultSpec cut the connection"),
        said("fault_refuse", "connection_refused", S::BAD_GATEWAY, 14, Injected,
            "a FaultSpec refused the connection"),
        said("fault_blackhole", "connection_timeout", S::GATEWAY_TIMEOUT, 14, Injected,
            "a FaultSpec let the try hang, and no clock ended it before the fault did"),
        said("fault_truncate", "http_response_incomplete", S::BAD_GATEWAY, 14, Injected,
            "a FaultSpec cut the response's body"),
        said("no_endpoints", "destination_unavailable", S::SERVICE_UNAVAILABLE, 14, CalleePlatform,
            "the callee has no endpoint"),
        said("protocol_error", "http_protocol_error", S::BAD_GATEWAY, 13, CalleeApp,
            "the callee's answer is not valid HTTP"),
        said("upgrade_failed", "http_upgrade_failed", S::BAD_GATEWAY, 13, CalleeApp,
            "the callee did not switch protocols"),
        said("response_incomplete", "http_response_incomplete", S::BAD_GATEWAY, 14, CalleeApp,
            "the callee broke off its response"),
        said("callee_error", "", S::BAD_GATEWAY, 13, CalleeApp,
            "the callee answered with an error"),
        said("caller_cancelled", "", S::BAD_REQUEST, 1, Caller,
            "the caller went away"),
        said("loop_detected", "proxy_loop_detected", S::BAD_GATEWAY, 13, Mesh,
            "the request is addressed to the proxy itself"),
        said("too_many_connections", "connection_limit_reached", S::SERVICE_UNAVAILABLE, 14, Mesh,
            "the proxy has no memory for another connection"),
        said("out_of_resources", "proxy_internal_error", S::SERVICE_UNAVAILABLE, 14, Mesh,
            "the proxy has no file descriptor, local port or memory left for a connection"),
        said("request_incomplete", "http_request_error", S::BAD_REQUEST, 3, Caller,
            "the request's body broke off"),
        said("request_malformed", "http_request_error", S::BAD_REQUEST, 3, Caller,
            "what the caller sent is not valid HTTP"),
        said("request_head_too_large", "http_request_error", S::REQUEST_HEADER_FIELDS_TOO_LARGE, 3, Caller,
            "the head of the request has more than 100 headers or 64 KiB"),
        said("request_head_timeout", "http_request_error", S::REQUEST_TIMEOUT, 4, Caller,
            "the rest of the request's head did not come in time"),
        said("response_head_too_large", "http_response_header_section_size", S::BAD_GATEWAY, 13, Mesh,
            "the head of the callee's response has more than 100 headers or 64 KiB"),
        said("internal", "proxy_internal_error", S::INTERNAL_SERVER_ERROR, 13, Mesh,
            "a defect of the proxy; please report it"),
    ]
};

const fn said(
    name: &'static str,
    error: &'static str,
    status: StatusCode,
    grpc: u8,
    domain: Domain,
    details: &'static str,
) -> Said {
    Said { name, error, status, grpc, domain, details }
}

impl Reason {
    /// The word itself, as it stands in headers, labels and logs.
    pub fn name(self) -> &'static str {
        self.said().name
    }

    /// The reason of that name.
    pub fn named(name: &str) -> Option<Self> {
        REASONS.into_iter().find(|reason| reason.name() == name)
    }

    /// Whether the callee's application cannot have seen the request.
    pub fn is_unsent(self) -> bool {
        matches!(
            self,
            Self::ConnectTimeout
                | Self::ConnectionRefused
                | Self::ConnectFailed
                | Self::Overload
                | Self::FaultRefuse
                | Self::FaultBlackhole
        )
    }

    /// Whether it says something about the callee's health. A limit of ours or of the callee's, or a caller that left, does not: who is
    /// kept from what a callee can still do, because it cannot do more, loses all of it.
    pub fn is_outcome(self) -> bool {
        self.is_unsent() && self != Self::Overload
            || self.is_clock()
            || matches!(
                self,
                Self::ConnectionReset
                    | Self::StaleConnection
                    | Self::StreamRefused
                    | Self::ProtocolError
                    | Self::FaultReset
                    | Self::FaultTruncate
            )
    }

    /// The error token of RFC 9209.
    pub fn error_token(self) -> &'static str {
        self.said().error
    }

    /// Status of the answer that the proxy gives in the callee's place.
    pub fn status(self) -> StatusCode {
        self.said().status
    }

    /// gRPC status of that answer.
    pub fn grpc_status(self) -> u8 {
        self.said().grpc
    }

    /// Whose problem it is.
    pub fn domain(self) -> Domain {
        self.said().domain
    }

    /// Whether one of the clocks of a try or a request ran out.
    pub fn is_clock(self) -> bool {
        matches!(self, Self::AttemptTimeout | Self::RequestTimeout | Self::IdleTimeout | Self::DeadlineExceeded)
    }

    /// One sentence for the person who reads the response.
    pub fn details(self) -> &'static str {
        self.said().details
    }

    fn said(self) -> &'static Said {
        &SAID[self as usize]
    }
}

impl From<Refused> for Reason {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Full => Self::BulkheadFull,
            Refused::TimedOut => Self::BulkheadTimeout,
            Refused::Deadline => Self::RequestTimeout,
        }
    }
}

impl From<concurrency::Refused> for Reason {
    fn from(refused: concurrency::Refused) -> Self {
        match refused {
            concurrency::Refused::Full | concurrency::Refused::TimedOut => Self::Overload,
            concurrency::Refused::Deadline => Self::DeadlineSpent,
        }
    }
}

impl Domain {
    /// The word itself, as it stands in labels and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Caller => "caller",
            Self::CallerPolicy => "caller_policy",
            Self::Network => "network",
            Self::CalleePlatform => "callee_platform",
            Self::CalleeApp => "callee_app",
            Self::CalleeDependency => "callee_dependency",
            Self::Injected => "injected",
            Self::Mesh => "mesh",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn the_table_is_complete_and_in_order() {
        assert!(REASONS.iter().enumerate().all(|(place, reason)| *reason as usize == place));
        assert_eq!(REASONS.iter().map(|reason| reason.name()).collect::<HashSet<_>>().len(), REASONS.len());
    }

    #[test]
    fn grpc_never_mistakes_a_limit_or_a_time_out_for_success() {
        assert!(REASONS.iter().all(|reason| (1..=16).contains(&reason.grpc_status())));
    }
}
