//! When requests are due: a Poisson process, the same for everybody who gives the same seed.
//!
//! Tokio's timers go in milliseconds, in which many requests are due; sent as a bunch, they would queue for each other. A
//! timerfd wakes within microseconds.

use std::time::Duration;

use rustix::{
    fd::OwnedFd,
    time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime},
};
use tokio::{io::unix::AsyncFd, time::Instant};

const SEED: u64 = 7;

/// Gaps between arrivals of a Poisson process.
pub(crate) struct Schedule {
    timer: AsyncFd<OwnedFd>,
    random: fastrand::Rng,
    mean: f64,
    due: Instant,
}

impl Schedule {
    /// Begins now, with `rate` arrivals a second.
    pub(crate) fn new(rate: f64) -> anyhow::Result<Self> {
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        let random = fastrand::Rng::with_seed(SEED);
        Ok(Self { timer: own(timer)?, random, mean: 1.0 / rate, due: Instant::now() })
    }

    /// Waits for the next arrival and says when it was due. What is late is not waited for.
    pub(crate) async fn next(&mut self) -> anyhow::Result<Instant> {
        self.due += Duration::from_secs_f64(-(1.0 - self.random.f64()).ln() * self.mean);
        loop {
            let wait = self.due.saturating_duration_since(Instant::now());
            if wait.is_zero() {
                return Ok(self.due);
            }
            self.sleep(wait).await?;
        }
    }

    /// Setting the timer anew takes back its last expiry, so that nothing need be read from it.
    async fn sleep(&self, wait: Duration) -> anyhow::Result<()> {
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        let value = Timespec { tv_sec: wait.as_secs().try_into()?, tv_nsec: wait.subsec_nanos().into() };
        let timer = Itimerspec { it_interval: zero, it_value: value };
        timerfd_settime(self.timer.get_ref(), TimerfdTimerFlags::empty(), &timer)?;
        self.timer.readable().await?.clear_ready();
        Ok(())
    }
}

#[expect(deprecated, reason = "sound for a descriptor that it owns, which its successor cannot know and so is unsafe")]
fn own(timer: OwnedFd) -> std::io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::new(timer)
}
