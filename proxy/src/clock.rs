//! The time, as a worker's tasks see it: it stands still while one of them is polled.
//!
//! A poll is a matter of microseconds, and all that happens in it happens at once: a request's head has come, its breaker was asked,
//! its try began. Each of these wants to know the time, and reading the clock takes longer than most of what they do with it (50 ns on
//! a virtual machine). So it is read once a poll, when somebody first asks. A task that has waited sees the time anew, since it is
//! polled anew.

use std::{
    cell::Cell,
    pin::Pin,
    task::{Context, Poll},
};

use pin_project_lite::pin_project;
use tokio::time::Instant;

thread_local! {
    static TIME: Cell<Time> = const { Cell::new(Time::Runs) };
}

#[derive(Clone, Copy)]
enum Time {
    /// No task is being polled that it stands still for.
    Runs,
    /// It stands still, and nobody has asked yet.
    Unread,
    StandsAt(Instant),
}

/// The time now: within a poll of a [`steady`] future that of its first call, elsewhere the clock's.
pub fn now() -> Instant {
    match TIME.get() {
        Time::Runs => Instant::now(),
        Time::StandsAt(now) => now,
        Time::Unread => {
            let now = Instant::now();
            TIME.set(Time::StandsAt(now));
            now
        }
    }
}

/// A future for which time stands still while it is polled.
pub fn steady<F: Future>(future: F) -> Steady<F> {
    Steady { future }
}

pin_project! {
    /// See [`steady`].
    #[derive(Debug)]
    pub struct Steady<F> {
        #[pin]
        future: F,
    }
}

impl<F: Future> Future for Steady<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let _standing = Standing::begin();
        self.project().future.poll(cx)
    }
}

/// Lets time run on when it is dropped, also by a panic, unless it stood still before.
struct Standing(Time);

impl Standing {
    fn begin() -> Self {
        let before = TIME.get();
        if matches!(before, Time::Runs) {
            TIME.set(Time::Unread);
        }
        Self(before)
    }
}

impl Drop for Standing {
    fn drop(&mut self) {
        if matches!(self.0, Time::Runs) {
            TIME.set(Time::Runs);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        panic::{AssertUnwindSafe, catch_unwind},
        time::Duration,
    };

    use tokio::{task::yield_now, time::advance};

    use super::*;

    /// Time passes at once, within a poll.
    fn pass(time: Duration) {
        let mut advance = std::pin::pin!(advance(time));
        let _ = advance.as_mut().poll(&mut Context::from_waker(std::task::Waker::noop()));
    }

    #[tokio::test(start_paused = true)]
    async fn within_a_poll_it_stands_still_and_after_a_wait_it_is_another() {
        let second = Duration::from_secs(1);
        steady(async {
            let first = now();
            pass(second);
            assert_eq!(now(), first);
            assert_eq!(steady(async { now() }).await, first, "also for a future within");
            assert_eq!(now(), first);
            yield_now().await;
            assert_eq!(now(), first + second);
        })
        .await;
        let outside = now();
        pass(second);
        assert_eq!(now(), outside + second, "outside it runs");
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_does_not_stop_it() {
        let panics = catch_unwind(AssertUnwindSafe(|| {
            let mut future = std::pin::pin!(steady(async {
                now();
                panic!("on purpose");
            }));
            let _ = future.as_mut().poll(&mut Context::from_waker(std::task::Waker::noop()));
        }));
        assert!(panics.is_err());
        let before = now();
        pass(Duration::from_secs(1));
        assert_eq!(now(), before + Duration::from_secs(1));
    }
}
