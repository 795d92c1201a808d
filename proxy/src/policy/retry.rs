//! Whether a try is repeated, and after which pause.
//!
//! The decision is a pure function of what the try brought and what the policy says. The budget is asked by the caller,
//! twice (see [`budget`](super::budget)).

use std::time::Duration;

use firebreak_crds::spec::{self, Condition, Methods, defaults};
use http::{HeaderMap, HeaderName, Method, StatusCode, header};
use jiff::{Timestamp, fmt::rfc2822};

use crate::verdict::Reason;

/// Compiled `retries`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retries {
    /// Extra tries after the first.
    pub max: u32,
    conditions: u16,
    codes: Box<[u16]>,
    methods: Methods,
    base: Duration,
    longest: Duration,
}

/// What a try brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Brought {
    /// A response.
    Response {
        /// HTTP status.
        status: StatusCode,
        /// Its gRPC status, if that has come.
        grpc: Option<u8>,
    },
    /// None. For a gRPC call it counts as the gRPC status that the proxy would answer in its place.
    Nothing {
        /// Why.
        reason: Reason,
        /// Whether the call is gRPC.
        grpc: bool,
    },
}

/// What another try depends on, apart from what the last one brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prospect {
    /// Tries made so far.
    pub made: u32,
    /// Whether the request can be sent again: its body is kept.
    pub replayable: bool,
    /// Whether another layer of retries is at work: one above is trying again already, or one below has in vain.
    pub layered: bool,
    /// What the answer says.
    pub told: Told,
    /// What is left of the request's time, if that has an end.
    pub left: Option<Duration>,
}

/// Whether there is another try after one that the policy wants to repeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Again {
    /// After this pause, if the budget allows it.
    After(Duration),
    /// No: its tries or its time are used up, or its body is not kept.
    Spent,
    /// No: that is left to another layer.
    LeftToLayers,
    /// No: the callee does not want it, or not before a time that there is not.
    PushedBack,
}

/// What an answer says about another try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// Nothing.
    Nothing,
    /// Not before this time has passed.
    After(Duration),
    /// There is to be none.
    Never,
}

const RETRY_PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

impl From<&spec::Retries> for Retries {
    fn from(retries: &spec::Retries) -> Self {
        let (base, longest) = retries.backoff.unwrap_or_default().resolved();
        Self {
            max: u32::from(retries.max()),
            conditions: retries.conditions().iter().fold(0, |bits, condition| bits | bit(*condition)),
            codes: retries.codes.clone().unwrap_or_default().into(),
            methods: retries.methods.unwrap_or(defaults::METHODS),
            base,
            longest,
        }
    }
}

impl Retries {
    /// Whether a request with this method and these headers may be sent twice at all, apart from failures that prove it
    /// was not processed.
    pub fn repeatable(&self, method: &Method, headers: &HeaderMap) -> bool {
        match self.methods {
            Methods::All => true,
            Methods::Safe => method.is_safe(),
            Methods::Idempotent => is_idempotent(method, headers),
        }
    }

    /// Whether the policy wants another try after `brought`. `repeatable` is what [`repeatable`](Self::repeatable) said.
    pub fn wants(&self, brought: Brought, repeatable: bool) -> bool {
        match brought {
            Brought::Nothing { reason, grpc } => self.wants_after(reason, grpc, repeatable),
            Brought::Response { status, grpc } => {
                grpc.and_then(grpc_condition).is_some_and(|condition| self.has(condition))
                    || repeatable && self.wants_status(status)
            }
        }
    }

    /// Whether there is another try after one that the policy [wants](Self::wants) to repeat, and the pause before it. `random` is
    /// from 0 to 1.
    pub fn again(&self, after: Prospect, random: f64) -> Again {
        if after.made > self.max || !after.replayable {
            return Again::Spent;
        }
        if after.layered {
            return Again::LeftToLayers;
        }
        let own = self.pause(after.made, random);
        let in_time = |pause: &Duration| match after.left {
            // Whatever a callee asks for: no sum that could overflow.
            Some(left) => *pause < left,
            None => *pause <= defaults::RETRY_AFTER_MAX.max(own),
        };
        match after.told.pause(own).filter(in_time) {
            Some(pause) => Again::After(pause),
            None if after.told == Told::Nothing => Again::Spent,
            None => Again::PushedBack,
        }
    }

    /// Whether a gRPC status decides.
    pub fn reads_grpc(&self) -> bool {
        self.conditions & GRPC != 0
    }

    /// Pause before retry number `retry` (from 1): uniform between nothing and `base` doubled each time, up to `max`.
    pub fn pause(&self, retry: u32, random: f64) -> Duration {
        let step = self.base.saturating_mul(1u32.checked_shl(retry.saturating_sub(1)).unwrap_or(u32::MAX));
        step.min(self.longest).mul_f64(random.clamp(0.0, 1.0))
    }

    fn wants_after(&self, reason: Reason, grpc: bool, repeatable: bool) -> bool {
        let (condition, unsent) = match reason {
            // Nothing was processed, so a second sending is a first, whatever the method.
            unsent if unsent.is_unsent() => (Some(Condition::ConnectFailure), true),
            Reason::StreamRefused => (Some(Condition::RefusedStream), true),
            Reason::ConnectionReset | Reason::StaleConnection | Reason::FaultReset => {
                (Some(Condition::ResetBeforeResponse), false)
            }
            Reason::AttemptTimeout | Reason::ProtocolError => (None, false),
            // The request's own end, the caller's departure, and what the bulkhead decided are final.
            _ => return false,
        };
        grpc && grpc_condition(reason.grpc_status()).is_some_and(|condition| self.has(condition))
            || (unsent || repeatable)
                && (condition.is_some_and(|condition| self.has(condition)) || self.wants_status(reason.status()))
    }

    fn wants_status(&self, status: StatusCode) -> bool {
        let code = status.as_u16();
        self.has(Condition::ServerError) && status.is_server_error()
            || self.has(Condition::GatewayError) && (502..=504).contains(&code)
            || self.has(Condition::Retriable4xx) && status == StatusCode::CONFLICT
            || self.has(Condition::Codes) && self.codes.contains(&code)
    }

    fn has(&self, condition: Condition) -> bool {
        self.conditions & bit(condition) != 0
    }
}

/// Whether a request may be sent twice by what it says of itself: its method (RFC 9110, 9.2.2), or a key by which the callee
/// knows that it has seen it.
pub fn is_idempotent(method: &Method, headers: &HeaderMap) -> bool {
    method.is_idempotent() || headers.contains_key(IDEMPOTENCY_KEY)
}

impl Told {
    /// What the headers say that came with an answer at `now`: `grpc-retry-pushback-ms` (gRFC A6; what cannot be read means
    /// never), or `Retry-After` in seconds or as a date (RFC 9110, 10.2.3).
    pub fn by(headers: &HeaderMap, now: Timestamp) -> Self {
        if let Some(pushback) = headers.get(RETRY_PUSHBACK) {
            let millis = pushback.to_str().ok().and_then(|millis| millis.trim().parse().ok());
            return millis.map_or(Self::Never, |millis| Self::After(Duration::from_millis(millis)));
        }
        let Some(after) = headers.get(header::RETRY_AFTER).and_then(|after| after.to_str().ok()) else {
            return Self::Nothing;
        };
        if let Ok(seconds) = after.trim().parse() {
            return Self::After(Duration::from_secs(seconds));
        }
        let date = rfc2822::DateTimeParser::new().parse_timestamp(after).ok();
        date.map_or(Self::Nothing, |date| Self::After(date.duration_since(now).try_into().unwrap_or_default()))
    }

    /// The pause before a retry whose own would be `own`; `None` if there is to be none.
    pub fn pause(self, own: Duration) -> Option<Duration> {
        match self {
            Self::Nothing => Some(own),
            Self::After(asked) => Some(own.max(asked)),
            Self::Never => None,
        }
    }
}

/// All conditions that look at a gRPC status.
const GRPC: u16 = bit(Condition::GrpcCancelled)
    | bit(Condition::GrpcDeadlineExceeded)
    | bit(Condition::GrpcResourceExhausted)
    | bit(Condition::GrpcInternal)
    | bit(Condition::GrpcUnavailable);

const fn bit(condition: Condition) -> u16 {
    1 << condition as u16
}

fn grpc_condition(status: u8) -> Option<Condition> {
    match status {
        1 => Some(Condition::GrpcCancelled),
        4 => Some(Condition::GrpcDeadlineExceeded),
        8 => Some(Condition::GrpcResourceExhausted),
        13 => Some(Condition::GrpcInternal),
        14 => Some(Condition::GrpcUnavailable),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
