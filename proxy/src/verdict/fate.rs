//! How requests and tries end. Every request has exactly one fate, so the fates of a callee add up to its requests.

use super::Reason;

/// The end of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fate {
    /// The callee answered at the first try.
    Succeeded,
    /// The callee answered, at a later try.
    SucceededAfterRetry,
    /// The callee answered with a server error, or broke off.
    Failed,
    /// A clock ran out.
    TimedOut,
    /// The rate limit let it not in.
    RefusedByRateLimit,
    /// The bulkhead let it not in.
    RefusedByBulkhead,
    /// The breaker let it not through.
    RefusedByBreaker,
    /// The callee's own limit on requests at once let it not in.
    RefusedByConcurrency,
    /// An injected fault was the end of it.
    Injected,
    /// The callee could not be reached.
    Unreachable,
    /// The caller went away.
    Cancelled,
    /// The proxy could not take it.
    Rejected,
}

/// All fates, for tables indexed by `Fate as usize`.
pub const FATES: [Fate; 12] = [
    Fate::Succeeded,
    Fate::SucceededAfterRetry,
    Fate::Failed,
    Fate::TimedOut,
    Fate::RefusedByRateLimit,
    Fate::RefusedByBulkhead,
    Fate::RefusedByBreaker,
    Fate::RefusedByConcurrency,
    Fate::Injected,
    Fate::Unreachable,
    Fate::Cancelled,
    Fate::Rejected,
];

/// The end of one try.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AttemptOutcome {
    /// The callee answered, and not with a server error.
    Answered,
    /// The callee answered with a server error.
    Error,
    /// It took too long.
    TimedOut,
    /// An injected fault ended it.
    Injected,
    /// The connection could not be opened or broke.
    Unreachable,
    /// It was given up, because the try beside it was answered first.
    Cancelled,
}

/// All outcomes, for tables indexed by `AttemptOutcome as usize`.
pub const ATTEMPT_OUTCOMES: [AttemptOutcome; 6] = [
    AttemptOutcome::Answered,
    AttemptOutcome::Error,
    AttemptOutcome::TimedOut,
    AttemptOutcome::Injected,
    AttemptOutcome::Unreachable,
    AttemptOutcome::Cancelled,
];

impl Fate {
    /// The word itself, as it stands in labels and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::SucceededAfterRetry => "succeeded_after_retry",
            Self::Failed => "failed",
            Self::TimedOut => "timed_out",
            Self::RefusedByRateLimit => "refused_by_rate_limit",
            Self::RefusedByBulkhead => "refused_by_bulkhead",
            Self::RefusedByBreaker => "refused_by_breaker",
            Self::RefusedByConcurrency => "refused_by_concurrency",
            Self::Injected => "injected",
            Self::Unreachable => "unreachable",
            Self::Cancelled => "cancelled",
            Self::Rejected => "rejected",
        }
    }
}

impl Fate {
    /// Whether a limit of a policy refused it before the application saw it.
    pub fn is_refusal(self) -> bool {
        matches!(
            self,
            Self::RefusedByRateLimit | Self::RefusedByBulkhead | Self::RefusedByBreaker | Self::RefusedByConcurrency
        )
    }
}

impl AttemptOutcome {
    /// The word itself, as it stands in labels.
    pub fn name(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Error => "error",
            Self::TimedOut => "timed_out",
            Self::Injected => "injected",
            Self::Unreachable => "unreachable",
            Self::Cancelled => "cancelled",
        }
    }
}

impl From<Reason> for Fate {
    fn from(reason: Reason) -> Self {
        match reason {
            Reason::AttemptTimeout
            | Reason::RequestTimeout
            | Reason::IdleTimeout
            | Reason::DeadlineExceeded
            | Reason::DeadlineSpent => Self::TimedOut,
            Reason::RateLimited => Self::RefusedByRateLimit,
            Reason::BulkheadFull | Reason::BulkheadTimeout => Self::RefusedByBulkhead,
            Reason::BreakerOpen => Self::RefusedByBreaker,
            Reason::Overload => Self::RefusedByConcurrency,
            Reason::FaultAbort
            | Reason::FaultReset
            | Reason::FaultRefuse
            | Reason::FaultBlackhole
            | Reason::FaultTruncate => Self::Injected,
            Reason::ConnectTimeout
            | Reason::ConnectionRefused
            | Reason::ConnectFailed
            | Reason::ConnectionReset
            | Reason::StaleConnection
            | Reason::StreamRefused
            | Reason::NoEndpoints => Self::Unreachable,
            Reason::CallerCancelled | Reason::RequestIncomplete => Self::Cancelled,
            Reason::CalleeError
            | Reason::ProtocolError
            | Reason::UpgradeFailed
            | Reason::ResponseIncomplete
            | Reason::OutOfResources
            | Reason::ResponseHeadTooLarge => Self::Failed,
            Reason::LoopDetected
            | Reason::TooManyConnections
            | Reason::RequestMalformed
            | Reason::RequestHeadTooLarge
            | Reason::RequestHeadTimeout
            | Reason::Internal => Self::Rejected,
        }
    }
}

impl From<Reason> for AttemptOutcome {
    fn from(reason: Reason) -> Self {
        match Fate::from(reason) {
            Fate::TimedOut => Self::TimedOut,
            Fate::Injected => Self::Injected,
            Fate::Failed | Fate::RefusedByConcurrency => Self::Error,
            _ => Self::Unreachable,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_are_in_order() {
        assert!(FATES.iter().enumerate().all(|(place, fate)| *fate as usize == place));
        assert!(ATTEMPT_OUTCOMES.iter().enumerate().all(|(place, outcome)| *outcome as usize == place));
    }
}
