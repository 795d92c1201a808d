//! Requests, and what became of each as the caller saw it.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use hyper::Uri;
use tokio::{task::JoinSet, time::Instant};

use crate::http::{self, Answer, NoAnswer};

/// How requests end, in the words of the metric `firebreak_requests_total`.
pub(crate) mod fate {
    pub(crate) const SUCCEEDED: &str = "succeeded";
    pub(crate) const AFTER_RETRY: &str = "succeeded_after_retry";
    pub(crate) const FAILED: &str = "failed";
    pub(crate) const TIMED_OUT: &str = "timed_out";
    pub(crate) const REFUSED: &str = "refused_by_bulkhead";
    pub(crate) const LEFT_ALONE: &str = "refused_by_breaker";
    pub(crate) const INJECTED: &str = "injected";
    pub(crate) const UNREACHABLE: &str = "unreachable";
    /// As the caller sees it: the proxy knows no such end.
    pub(crate) const NO_ANSWER: &str = "no_answer";
    /// All that the proxy counts, with those that the demo's callers never cause.
    pub(crate) const ALL: [&str; 10] = [
        SUCCEEDED,
        AFTER_RETRY,
        FAILED,
        TIMED_OUT,
        REFUSED,
        LEFT_ALONE,
        INJECTED,
        UNREACHABLE,
        "cancelled",
        "rejected",
    ];
}

/// How many to send.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    pub(crate) to: Uri,
    /// Under way at a time.
    pub(crate) at_once: usize,
    /// In all.
    pub(crate) most: u64,
    /// None is begun after this.
    pub(crate) until: Instant,
    /// A caller gives up after it.
    pub(crate) patience: Duration,
}

/// What callers saw.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Requests sent.
    pub(crate) sent: u64,
    /// By fate, as far as a caller can tell: it does not see retries.
    pub(crate) fates: BTreeMap<&'static str, u64>,
    /// By the proxy's reason.
    pub(crate) reasons: BTreeMap<String, u64>,
    /// The longest that any took.
    pub(crate) slowest: Duration,
    /// The longest that any took that was refused without a wait: `bulkhead_full`, `breaker_open`.
    pub(crate) slowest_refusal: Duration,
    /// Answers that the proxy gave without saying why.
    pub(crate) unexplained: u64,
}

/// Sends the load; `progress` is called after each request.
pub(crate) async fn send(load: Load, progress: impl Fn() + Clone + Send + 'static) -> Tally {
    let begun = Arc::new(AtomicU64::new(0));
    let mut callers = JoinSet::new();
    for _ in 0..load.at_once {
        let (load, begun, progress) = (load.clone(), Arc::clone(&begun), progress.clone());
        callers.spawn(async move {
            let mut tally = Tally::default();
            while Instant::now() < load.until && begun.fetch_add(1, Relaxed) < load.most {
                tally.add(http::get(&load.to, load.patience).await);
                progress();
            }
            tally
        });
    }
    callers.join_all().await.into_iter().fold(Tally::default(), Tally::plus)
}

impl Tally {
    /// Counts one request.
    pub(crate) fn add(&mut self, answer: Result<Answer, NoAnswer>) {
        self.sent += 1;
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                // The proxy answers whatever it accepts, so this is the proxy's failure and must show.
                *self.fates.entry(fate::NO_ANSWER).or_default() += 1;
                if let NoAnswer::TimedOut(patience) = error {
                    self.slowest = self.slowest.max(patience);
                }
                return;
            }
        };
        self.slowest = self.slowest.max(answer.took);
        let reason = answer.reason();
        *self.fates.entry(fate_of(answer.status, reason)).or_default() += 1;
        if let Some(reason) = reason {
            *self.reasons.entry(reason.to_owned()).or_default() += 1;
        }
        if matches!(reason, Some("bulkhead_full" | "breaker_open")) {
            self.slowest_refusal = self.slowest_refusal.max(answer.took);
        }
        self.unexplained += u64::from(answer.status == 504 && reason.is_none());
    }

    /// Both together.
    pub(crate) fn plus(mut self, other: Self) -> Self {
        self.sent += other.sent;
        other.fates.into_iter().for_each(|(fate, count)| *self.fates.entry(fate).or_default() += count);
        other.reasons.into_iter().for_each(|(reason, count)| *self.reasons.entry(reason).or_default() += count);
        self.slowest = self.slowest.max(other.slowest);
        self.slowest_refusal = self.slowest_refusal.max(other.slowest_refusal);
        self.unexplained += other.unexplained;
        self
    }

    /// How many ended so.
    pub(crate) fn fate(&self, fate: &str) -> u64 {
        self.fates.get(fate).copied().unwrap_or_default()
    }
}

/// The fate as the caller sees it.
fn fate_of(status: u16, reason: Option<&str>) -> &'static str {
    match (status, reason) {
        (200..=299, _) => fate::SUCCEEDED,
        (_, Some("attempt_timeout" | "request_timeout" | "idle_timeout")) => fate::TIMED_OUT,
        (_, Some("bulkhead_full" | "bulkhead_timeout")) => fate::REFUSED,
        (_, Some("breaker_open")) => fate::LEFT_ALONE,
        (_, Some(reason)) if reason.starts_with("fault_") => fate::INJECTED,
        (_, None | Some("callee_error")) => fate::FAILED,
        (_, Some(_)) => fate::UNREACHABLE,
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn callers_give_up_on_a_proxy_that_does_not_answer() {
        let deaf = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let patience = Duration::from_millis(200);
        let to = http::url(deaf.local_addr().unwrap(), "/");
        let begun = Instant::now();
        let tally =
            send(Load { to, at_once: 3, most: 100, until: begun + Duration::from_millis(300), patience }, || {}).await;
        assert!(tally.sent >= 3, "{tally:?}");
        assert_eq!((tally.fate(fate::NO_ANSWER), tally.slowest), (tally.sent, patience));
        // The last request is begun before 300 ms are over and takes 200; the rest is for a busy machine.
        assert!(begun.elapsed() < Duration::from_millis(1500), "{:?}", begun.elapsed());
    }
}
