//! What a reason means and what to do next, for the person who has to act on it.
//!
//! The same sentences stand in `docs/reasons.md`, and a test compares them: whoever reads the page and whoever asks
//! `firebreak explain` must not be told different things. Responses carry [`Reason::details`] instead, which is shorter.

use super::{Domain, REASONS, Reason};

/// All domains.
pub const DOMAINS: [Domain; 8] = [
    Domain::Caller,
    Domain::CallerPolicy,
    Domain::Network,
    Domain::CalleePlatform,
    Domain::CalleeApp,
    Domain::CalleeDependency,
    Domain::Injected,
    Domain::Mesh,
];

/// What is said of a reason to whoever has to act.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Advice {
    /// What has happened.
    pub means: &'static str,
    /// What to do next.
    pub next: &'static str,
}

/// The advice on each reason, in their order.
static ADVICE: [(Reason, Advice); REASONS.len()] = [
    (
        Reason::ConnectTimeout,
        advise(
            "The connection was not open within `timeouts.connect`, or the system gave up on it.",
            "Check network policies and nodes between the two; see whether the callee's pods are alive; compare \
             `connect` with the network's round trip.",
        ),
    ),
    (
        Reason::ConnectionRefused,
        advise(
            "Nobody listens at the callee's address.",
            "See whether the callee's pods are ready and listen at the Service's `targetPort`.",
        ),
    ),
    (
        Reason::ConnectFailed,
        advise(
            "The connection could not be opened for another cause, such as no route.",
            "Check routes at the caller's node, and `errno` in the record.",
        ),
    ),
    (
        Reason::ConnectionReset,
        advise(
            "The connection ended before the response began, or a TCP connection broke.",
            "Look for crashes, out-of-memory kills and restarts at the callee; check its keep-alive time.",
        ),
    ),
    (
        Reason::StaleConnection,
        advise(
            "The callee had closed the connection, which had been idle, when the request was sent on it; the request could \
             not be sent again, because it may have been seen.",
            "Give the callee a keep-alive time above the proxy's 4 s, or let the policy retry `reset-before-response` for \
             methods that may be repeated.",
        ),
    ),
    (
        Reason::StreamRefused,
        advise(
            "HTTP/2: the callee refused the stream without doing anything with it.",
            "The callee is shutting down or at its limit of streams; retry with `refused-stream`.",
        ),
    ),
    (
        Reason::AttemptTimeout,
        advise(
            "No response headers within `timeouts.attempt`, and no try was left.",
            "Compare `attempt` with the callee's latency; see whether the callee is overloaded.",
        ),
    ),
    (
        Reason::RequestTimeout,
        advise(
            "The request was not complete within `timeouts.request`; it may have spent that time waiting in the \
             bulkhead (`firebreak-attempts=0`).",
            "Compare `request` with tries × `attempt`; for long downloads use a route or `idle`.",
        ),
    ),
    (
        Reason::IdleTimeout,
        advise(
            "No byte moved for `timeouts.idle`.",
            "If silence is normal here, raise `idle` or send keep-alives; else see where the callee hangs.",
        ),
    ),
    (
        Reason::DeadlineExceeded,
        advise(
            "The deadline that the caller sent along passed while the callee worked.",
            "See which step of the timeline took the time; give the outermost caller more, or the callee less to do.",
        ),
    ),
    (
        Reason::DeadlineSpent,
        advise(
            "The deadline that the caller sent along had passed before the request could be sent; the callee saw nothing.",
            "Look upstream: the time was used up before this call, or by waiting in the bulkhead.",
        ),
    ),
    (
        Reason::RateLimited,
        advise(
            "The caller has sent more requests than its rate limit allows. The callee saw nothing.",
            "Find out what the caller sends so often; if it is right to, raise `rateLimit`.",
        ),
    ),
    (
        Reason::BulkheadFull,
        advise(
            "The bulkhead is full and as many requests wait as may. The callee saw nothing.",
            "Find out why the callee is slow; if it is not, raise `maxConnections`, `maxRequests` or \
             `maxPending`.",
        ),
    ),
    (
        Reason::BulkheadTimeout,
        advise("No place became free within `maxPendingTime`. The callee saw nothing.", "As for `bulkhead_full`."),
    ),
    (
        Reason::BreakerOpen,
        advise(
            "The breaker is open, or admits no more for now, because the callee failed too often. The callee \
             saw nothing.",
            "Look at the failures before it: the callee is, or was, ill. `firebreak_breaker_state` says where \
             the breaker is.",
        ),
    ),
    (
        Reason::Overload,
        advise(
            "The callee has as much to do as it can: its own proxy let no more in, and no more may wait. Its application saw nothing.",
            "Give the callee more replicas, or its callers less to send; `firebreak_concurrency_limit` says how much a pod can do, and \
             `firebreak_concurrency_latency_seconds` how long that takes.",
        ),
    ),
    (
        Reason::FaultAbort,
        advise(
            "A FaultSpec answered in the callee's place; its own status is used where it names one.",
            "Nothing is broken. `firebreak-fault` names it; delete or suspend it to end it.",
        ),
    ),
    (
        Reason::FaultReset,
        advise(
            "A FaultSpec cut the try, as a reset would: before the answer, or between its headers and its body.",
            "As for `fault_abort`.",
        ),
    ),
    (
        Reason::FaultRefuse,
        advise("A FaultSpec ended the try as if nobody listened at the callee's address.", "As for `fault_abort`."),
    ),
    (
        Reason::FaultBlackhole,
        advise(
            "A FaultSpec let the try hang, and no clock of the policy ended it before the fault itself ended.",
            "As for `fault_abort`; a caller without an `attempt` or `request` clock waits like that for a callee that is \
             gone without a word.",
        ),
    ),
    (
        Reason::FaultTruncate,
        advise("A FaultSpec cut the answer within its body.", "As for `fault_abort`; a retry cannot help any more."),
    ),
    (
        Reason::NoEndpoints,
        advise(
            "The callee has no endpoint. Local mode only: in a cluster such a call ends as `connection_refused` \
             or `connect_timeout`.",
            "Add an EndpointSlice with the label `kubernetes.io/service-name`.",
        ),
    ),
    (
        Reason::ProtocolError,
        advise(
            "The callee's answer is not valid HTTP.",
            "See what the callee speaks at this port; correct the port's name or `appProtocol`.",
        ),
    ),
    (
        Reason::UpgradeFailed,
        advise(
            "The callee agreed to switch protocols and did not.",
            "Look at the callee's WebSocket or CONNECT handling.",
        ),
    ),
    (
        Reason::ResponseIncomplete,
        advise(
            "The callee broke off its response after it had begun; the caller's connection or stream is cut \
             too (gRPC: ended with this status). Also a gRPC response that ends without a status.",
            "Look for crashes and restarts at the callee.",
        ),
    ),
    (
        Reason::CalleeError,
        advise(
            "The callee answered with a server error, which was passed on as it is. Its status is in \
             `received-status`. gRPC: statuses 2, 4, 12, 13, 14, 15. Where the callee's own proxy made the \
             answer, its reason is taken over instead.",
            "Look at the callee's log.",
        ),
    ),
    (
        Reason::CallerCancelled,
        advise(
            "The caller went away before the response was complete. Nobody is there to be answered.",
            "See whether the caller has a shorter timeout of its own.",
        ),
    ),
    (
        Reason::LoopDetected,
        advise(
            "The connection was addressed to the proxy itself. It is reset.",
            "Find out who calls ports 15001 or 15006; nobody should.",
        ),
    ),
    (
        Reason::TooManyConnections,
        advise(
            "The proxy has as many callers' connections open as its memory limit allows; this one is reset.",
            "Raise the proxy's memory limit (`config.firebreak.dev/proxy-memory-limit`): one connection takes \
             at most 48 KiB while nothing moves on it.",
        ),
    ),
    (
        Reason::OutOfResources,
        advise(
            "The proxy has no file descriptor, local port or memory left to open a connection with. No breaker counts it.",
            "Look at `errno` in the record; raise the limit of open files or of local ports at the caller's node, or set \
             `bulkhead.maxConnections`.",
        ),
    ),
    (
        Reason::RequestIncomplete,
        advise(
            "The request's body ended or failed before it was complete.",
            "Look at the caller: it broke off while sending.",
        ),
    ),
    (
        Reason::RequestMalformed,
        advise(
            "What the caller sent is not valid HTTP, or could be understood in two ways (RFC 9112, 11.2): no or several hosts, two lengths, a length beside a transfer coding, a coding other than `chunked`. The connection is closed.",
            "See what the caller speaks at this port, and whether something between garbles it.",
        ),
    ),
    (
        Reason::RequestHeadTooLarge,
        advise(
            "The head of the request has more than 64 KiB or, on HTTP/1, 100 headers. On HTTP/1 the connection is closed.",
            "Look for a cookie or a header that grows.",
        ),
    ),
    (
        Reason::RequestHeadTimeout,
        advise(
            "The rest of the request's head did not come within a minute of its first byte. On HTTP/1 only; the connection is closed.",
            "Look at the caller: it broke off while sending, or keeps connections on purpose that way.",
        ),
    ),
    (
        Reason::ResponseHeadTooLarge,
        advise(
            "The head of the callee's response has more than 100 headers or 64 KiB: more than the proxy takes.",
            "Shorten it, or let this port go by the proxy (`config.firebreak.dev/skip-outbound-ports`).",
        ),
    ),
    (Reason::Internal, advise("A defect of the proxy.", "Please report it.")),
];

const fn advise(means: &'static str, next: &'static str) -> Advice {
    Advice { means, next }
}

impl Reason {
    /// What it means and what to do next.
    pub fn advice(self) -> Advice {
        ADVICE[self as usize].1
    }
}

impl Domain {
    /// Whose problem it is, in words.
    pub fn whose(self) -> &'static str {
        match self {
            Self::Caller => "the calling application",
            Self::CallerPolicy => "a limit that the caller's side enforces",
            Self::Network => "what lies between the two",
            Self::CalleePlatform => "where the callee runs: no pod, no listener",
            Self::CalleeApp => "the callee's application",
            Self::CalleeDependency => "what the callee's application called in its turn",
            Self::Injected => "an experiment",
            Self::Mesh => "Firebreak itself",
        }
    }

    /// The domain of that name.
    pub fn named(name: &str) -> Option<Self> {
        DOMAINS.into_iter().find(|domain| domain.name() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_order() {
        assert!(ADVICE.iter().zip(REASONS).all(|((reason, _), expected)| *reason == expected));
    }
}
