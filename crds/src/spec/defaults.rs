//! Every default, in one place. `docs/defaults.md` gives the reason for each; a test keeps the two equal.

use std::time::Duration;

use super::{Algorithm, Condition, Methods, Mode};

/// Whether a policy acts when `mode` is left out.
pub const MODE: Mode = Mode::Enforce;
/// Extra tries when `retries` is present without `maxRetries`.
pub const MAX_RETRIES: u8 = 2;
/// What is retried when `retries.conditions` is left out.
pub const CONDITIONS: [Condition; 4] =
    [Condition::ConnectFailure, Condition::RefusedStream, Condition::ResetBeforeResponse, Condition::GatewayError];
/// Which methods may be retried when `retries.methods` is left out.
pub const METHODS: Methods = Methods::Safe;
/// First step of the back-off.
pub const BACKOFF_BASE: Duration = Duration::from_millis(25);
/// Longest back-off.
pub const BACKOFF_MAX: Duration = Duration::from_millis(250);
/// Retries for each hundred requests of the window.
pub const BUDGET_PERCENT: u32 = 20;
/// Retries per second that are always allowed.
pub const BUDGET_MIN_PER_SECOND: u32 = 10;
/// How far back the retry budget looks.
pub const BUDGET_WINDOW: Duration = Duration::from_secs(10);
/// Bytes of a request body kept so that it can be sent again. A larger body is sent once.
pub const REPLAY_BYTES: usize = 64 * 1024;
/// Bytes of all bodies that are kept so that they can be sent again, where nothing says how much memory there is.
pub const REPLAY_TOTAL: usize = 64 * 1024 * 1024;
/// How long the head of a gRPC response waits for what follows it, where the policy repeats calls by their gRPC status: it may
/// be trailers with a status.
pub const TRAILERS_WAIT: Duration = Duration::from_millis(100);
/// Longest wait before another try that a callee may ask for where no `request` clock bounds it.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(10);
/// Second tries for each hundred requests when `hedge.maxExtraLoadPercent` is left out.
pub const HEDGE_MAX_EXTRA_LOAD_PERCENT: u32 = 2;
/// Requests that may wait when a bulkhead is present without `maxPending`.
pub const MAX_PENDING: u32 = 100;
/// How long they may wait when `maxPendingTime` is left out.
pub const MAX_PENDING_TIME: Duration = Duration::from_secs(1);
/// Failures in a row that open a breaker without `tripOn`.
pub const BREAKER_CONSECUTIVE_FAILURES: u32 = 5;
/// Failures of a hundred tries that open a breaker without `tripOn`.
pub const BREAKER_FAILURE_PERCENT: u32 = 50;
/// How far back a breaker's rates look.
pub const BREAKER_WINDOW: Duration = Duration::from_secs(10);
/// Tries without which a breaker's rates mean nothing.
pub const BREAKER_MIN_REQUESTS: u32 = 20;
/// How long a breaker is open the first time.
pub const BREAKER_OPEN_INITIAL: Duration = Duration::from_secs(1);
/// How long a breaker is open at most.
pub const BREAKER_OPEN_MAX: Duration = Duration::from_mins(1);
/// Probes that must pass.
pub const BREAKER_PROBES: u32 = 3;
/// Time from the first share of the traffic to all of it.
pub const BREAKER_RAMP: Duration = Duration::from_secs(30);
/// The first share of the traffic, of a hundred.
pub const BREAKER_START_PERCENT: u32 = 5;
/// How an endpoint is chosen when `loadBalancing` is present without `algorithm`.
pub const ALGORITHM: Algorithm = Algorithm::PeakEwma;
/// How far back the average of an endpoint's times looks: after so long a time has a third of its weight.
pub const BALANCE_DECAY: Duration = Duration::from_secs(10);
/// What a failed try counts in the average of an endpoint's times, at least.
pub const BALANCE_FAILURE: Duration = Duration::from_secs(5);
/// The part of its share that a new endpoint gets at first, of a hundred.
pub const SLOW_START_PERCENT: u32 = 10;
/// Failures in a row that eject an endpoint when `outlierDetection` names no cause.
pub const OUTLIER_CONSECUTIVE_FAILURES: u32 = 5;
/// How far an endpoint's share of failures must be above that of the others, in failures of a hundred tries.
pub const OUTLIER_ABOVE_OTHERS: u32 = 30;
/// How far back tries count in the comparison of endpoints.
pub const OUTLIER_WINDOW: Duration = Duration::from_secs(10);
/// Tries without which the comparison means nothing.
pub const OUTLIER_MIN_REQUESTS: u32 = 20;
/// How long an endpoint is ejected the first time.
pub const EJECT_INITIAL: Duration = Duration::from_secs(5);
/// How long an endpoint is ejected at most.
pub const EJECT_MAX: Duration = Duration::from_mins(1);
/// From one health check to the next.
pub const HEALTH_INTERVAL: Duration = Duration::from_secs(5);
/// How long a health check may take.
pub const HEALTH_TIMEOUT: Duration = Duration::from_secs(1);
/// Health checks in a row that must fail before an endpoint is ill.
pub const UNHEALTHY_AFTER: u32 = 3;
/// Health checks in a row that must pass before it is well again.
pub const HEALTHY_AFTER: u32 = 2;
/// Requests at once that an application is given before anything is known of it.
pub const CONCURRENCY_INITIAL: u32 = 20;
/// The least that a limit on requests at once shrinks to.
pub const CONCURRENCY_MIN: u32 = 4;
/// The most that it grows to.
pub const CONCURRENCY_MAX: u32 = 1_000;
/// How much longer than without a queue requests may take before the limit shrinks, of a hundred.
pub const CONCURRENCY_TOLERANCE_PERCENT: u32 = 50;
/// Requests that may wait before the callee's application.
pub const CONCURRENCY_MAX_PENDING: u32 = 100;
/// How long they may wait.
pub const CONCURRENCY_MAX_PENDING_TIME: Duration = Duration::from_millis(100);
/// Of a hundred requests that come to a proxy without a trace, so many begin one, where spans go anywhere.
pub const TRACE_PERCENT: f32 = 1.0;
/// How long the rest of a request's head may take from its first byte.
pub const REQUEST_HEAD_TIME: Duration = Duration::from_mins(1);
/// How long a caller's connection may carry no request.
pub const CALLER_IDLE: Duration = Duration::from_hours(1);
/// Longest life of a fault.
pub const FAULT_MAX_DURATION: Duration = Duration::from_hours(24);
