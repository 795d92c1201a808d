//! How many requests the application beside this proxy works on at once: a limit that finds itself.
//!
//! All workers share it. The way in and out is a few atomic steps; only who has to wait, or leaves while others wait, takes the
//! queue's lock, and one request of a hundred the lock under which the limit moves ([`gradient`]). Who waits, and in which order,
//! is in [`queue`].

pub mod gradient;
pub mod queue;

use std::{
    sync::{Arc, atomic::Ordering::SeqCst},
    time::Duration,
};

use firebreak_crds::spec::{self, defaults};
use tokio::{sync::oneshot, time::Instant};

use self::{
    gradient::{Bounds, Gradient, Window},
    queue::Queue,
};
use crate::sync::{AtomicU32, AtomicU64, Mutex, timeout_at};

/// A window is over after so many requests, or with fewer after so long.
const REQUESTS: u64 = 100;
const TIME: Duration = Duration::from_secs(1);

/// Why a request was not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// As many wait as may, and it would be the last of them.
    Full,
    /// It waited as long as it may.
    TimedOut,
    /// Its own time was up first.
    Deadline,
}

/// All causes, for tables indexed by `Refused as usize`.
pub const REFUSED: [Refused; 3] = [Refused::Full, Refused::TimedOut, Refused::Deadline];

/// The limit of one port of the application, shared by all workers.
#[derive(Debug)]
pub struct Limit {
    /// As the policy has it now.
    spec: Mutex<spec::Concurrency>,
    max_pending: AtomicU32,
    max_pending_millis: AtomicU64,
    began: Instant,
    current: AtomicU32,
    in_flight: AtomicU32,
    /// The most at once of this window.
    most: AtomicU32,
    /// Requests that found no room in this window.
    kept_out: AtomicU32,
    /// Requests measured in this window (the upper 24 bits), and the microseconds that they took: one word, so that a sum and its number are
    /// taken together.
    measured: AtomicU64,
    dropped: AtomicU32,
    /// Milliseconds from `began` to the end of this window.
    window_ends: AtomicU64,
    /// What a request takes now, in microseconds.
    takes: AtomicU64,
    gradient: Mutex<Gradient>,
    waiting: AtomicU32,
    queue: Mutex<Queue<Waiter>>,
    tickets: AtomicU64,
    refused: [AtomicU64; REFUSED.len()],
}

/// Told that there is room, or that it is refused.
type Waiter = oneshot::Sender<Result<Permit, Refused>>;

/// The right to be worked on, until it is dropped.
#[derive(Debug)]
struct Permit(Arc<Limit>);

/// A request that the application works on.
#[derive(Debug)]
pub struct Place {
    permit: Permit,
    since: Instant,
    is_measured: bool,
}

/// Where it is, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// The limit.
    pub limit: u32,
    /// Requests in flight.
    pub in_flight: u32,
    /// Requests that wait.
    pub pending: u32,
    /// What a request takes, by the last window.
    pub takes: Duration,
}

impl Refused {
    /// The word itself, as it stands in labels.
    pub fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::TimedOut => "timed_out",
            Self::Deadline => "deadline",
        }
    }
}

impl Limit {
    /// A limit of which nothing is known yet.
    pub fn new(spec: spec::Concurrency, now: Instant) -> Arc<Self> {
        let gradient = Gradient::new(bounds(&spec));
        let limit = Self {
            spec: Mutex::new(spec),
            max_pending: AtomicU32::new(0),
            max_pending_millis: AtomicU64::new(0),
            began: now,
            current: AtomicU32::new(0),
            in_flight: AtomicU32::new(0),
            most: AtomicU32::new(0),
            kept_out: AtomicU32::new(0),
            measured: AtomicU64::new(0),
            dropped: AtomicU32::new(0),
            window_ends: AtomicU64::new(millis(TIME)),
            takes: AtomicU64::new(0),
            gradient: Mutex::new(gradient),
            waiting: AtomicU32::new(0),
            queue: Mutex::default(),
            tickets: AtomicU64::new(0),
            refused: [AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0)],
        };
        limit.put(spec);
        Arc::new(limit)
    }

    /// Puts other bounds in force. It stays where it is within them, and what is under way and what waits goes on: with less room than
    /// that, nobody is let in until enough of it is over. Who waits already waits as long as was said when it came.
    pub fn set(self: &Arc<Self>, spec: spec::Concurrency) {
        let before = std::mem::replace(&mut *self.spec.lock(), spec);
        if before != spec {
            self.put(spec);
            self.wake();
        }
    }

    fn put(&self, spec: spec::Concurrency) {
        let max_pending_time =
            spec.max_pending_time.map_or(defaults::CONCURRENCY_MAX_PENDING_TIME, spec::Duration::get);
        self.max_pending.store(spec.max_pending.unwrap_or(defaults::CONCURRENCY_MAX_PENDING), SeqCst);
        self.max_pending_millis.store(millis(max_pending_time), SeqCst);
        let mut gradient = self.gradient.lock();
        gradient.bound(bounds(&spec));
        self.current.store(whole(gradient.limit()), SeqCst);
    }

    /// Where it is now.
    pub fn usage(&self) -> Usage {
        Usage {
            limit: self.current.load(SeqCst),
            in_flight: self.in_flight.load(SeqCst),
            pending: self.waiting.load(SeqCst),
            takes: self.takes(),
        }
    }

    /// How many were refused for that cause.
    pub fn refused(&self, cause: Refused) -> u64 {
        self.refused[cause as usize].load(SeqCst)
    }

    /// Lets a request in, at once or after a wait. `deadline` is when its caller gives it up, if that is known.
    ///
    /// # Errors
    /// Says why not.
    pub async fn acquire(self: &Arc<Self>, deadline: Option<Instant>) -> Result<Place, Refused> {
        let permit = match self.try_acquire() {
            Some(permit) => Ok(permit),
            None => self.wait(deadline).await,
        };
        match permit {
            Ok(permit) => Ok(Place { permit, since: Instant::now(), is_measured: false }),
            Err(cause) => {
                self.refused[cause as usize].fetch_add(1, SeqCst);
                Err(cause)
            }
        }
    }

    fn try_acquire(self: &Arc<Self>) -> Option<Permit> {
        (self.waiting.load(SeqCst) == 0 && self.admit()).then(|| Permit(Arc::clone(self)))
    }

    async fn wait(self: &Arc<Self>, deadline: Option<Instant>) -> Result<Permit, Refused> {
        let (admit, mut admitted) = oneshot::channel();
        let (ticket, now) = (self.tickets.fetch_add(1, SeqCst), Instant::now());
        self.kept_out.fetch_add(1, SeqCst);
        let last = {
            let mut queue = self.queue.lock();
            let max_pending = self.max_pending.load(SeqCst) as usize;
            let last = queue.push((ticket, deadline, admit), max_pending, now, self.takes());
            self.waiting.store(length(&queue), SeqCst);
            last
        };
        let queued = Queued { limit: self, ticket };
        // Who is last may be who just came. Nobody listens any more where its wait is over.
        last.map(|last| last.send(Err(Refused::Full)).err());
        // Room may have appeared between the first look and the queue; whoever made it may not have seen us waiting.
        self.wake();
        let patience = now.checked_add(Duration::from_millis(self.max_pending_millis.load(SeqCst)));
        let until = [patience, deadline].into_iter().flatten().min();
        let outcome = match until {
            None => (&mut admitted).await.ok(),
            Some(until) => timeout_at(until, &mut admitted).await.ok().and_then(Result::ok),
        };
        drop(queued);
        // Out of the queue now; an admission that crossed the time-out is still ours.
        let outcome = outcome.or_else(|| admitted.try_recv().ok());
        outcome.unwrap_or(Err(if until == patience { Refused::TimedOut } else { Refused::Deadline }))
    }

    /// Lets in whoever is next while there is room.
    fn wake(self: &Arc<Self>) {
        if self.waiting.load(SeqCst) == 0 {
            return;
        }
        let mut orphans = Vec::new();
        {
            let mut queue = self.queue.lock();
            while !queue.is_empty() && self.admit() {
                let permit = Permit(Arc::clone(self));
                match queue.pop(Instant::now(), self.takes()) {
                    Some(next) => orphans.extend(next.send(Ok(permit)).err()),
                    None => orphans.push(Ok(permit)),
                }
            }
            self.waiting.store(length(&queue), SeqCst);
        }
        // A permit whose waiter is gone comes back here, outside the lock, since dropping it wakes again.
        drop(orphans);
    }

    fn admit(&self) -> bool {
        let limit = self.current.load(SeqCst);
        let taken = self.in_flight.fetch_update(SeqCst, SeqCst, |used| (used < limit).then(|| used + 1));
        let Ok(before) = taken else { return false };
        if before >= self.most.load(SeqCst) {
            let _ = self.most.fetch_update(SeqCst, SeqCst, |most| (most <= before).then(|| before + 1));
        }
        true
    }

    fn takes(&self) -> Duration {
        Duration::from_micros(self.takes.load(SeqCst))
    }

    fn measure(self: &Arc<Self>, took: Duration, now: Instant) {
        // An hour is as good as anything that is longer.
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).min(MICROS >> 8);
        let before = self.measured.fetch_add(ONE | micros, SeqCst);
        self.close(before / ONE + 1 >= REQUESTS, now);
    }

    fn drop_one(self: &Arc<Self>, now: Instant) {
        self.dropped.fetch_add(1, SeqCst);
        self.close(false, now);
    }

    /// Moves the limit if the window is over.
    fn close(self: &Arc<Self>, enough: bool, now: Instant) {
        let age = millis(now.saturating_duration_since(self.began));
        if !enough && age < self.window_ends.load(SeqCst) {
            return;
        }
        {
            let mut gradient = self.gradient.lock();
            // Another may have closed it meanwhile.
            let is_over = age >= self.window_ends.load(SeqCst) || self.measured.load(SeqCst) / ONE >= REQUESTS;
            if !is_over {
                return;
            }
            let (measured, dropped) = (self.measured.swap(0, SeqCst), self.dropped.swap(0, SeqCst));
            let most = self.most.swap(self.in_flight.load(SeqCst), SeqCst);
            let kept_out = self.kept_out.swap(0, SeqCst);
            self.window_ends.store(age.saturating_add(millis(TIME)), SeqCst);
            let (count, micros) = (measured / ONE, measured & MICROS);
            if let Some(takes) = micros.checked_div(count) {
                self.takes.store(takes, SeqCst);
            }
            let count = u32::try_from(count).unwrap_or(u32::MAX);
            let window = Window { measured: count, took: Duration::from_micros(micros), dropped, most, kept_out };
            self.current.store(whole(gradient.closed(window)), SeqCst);
        }
        self.wake();
    }
}

/// One request in [`Limit::measured`], and the bits below it.
const ONE: u64 = 1 << 40;
const MICROS: u64 = ONE - 1;

impl Place {
    /// The application has answered, at `now`.
    pub fn answered(&mut self, now: Instant) {
        if !std::mem::replace(&mut self.is_measured, true) {
            self.permit.0.measure(now.saturating_duration_since(self.since), now);
        }
    }

    /// It failed as overload makes it fail, at `now`.
    pub fn overloaded(&mut self, now: Instant) {
        if !std::mem::replace(&mut self.is_measured, true) {
            self.permit.0.drop_one(now);
        }
    }

    /// It failed otherwise, and says nothing of how long requests take.
    pub fn failed(&mut self) {
        self.is_measured = true;
    }

    /// Its caller left before it was answered, at `now`. That it would have taken longer is known if it has taken long already.
    pub fn left(&mut self, now: Instant) {
        let took = now.saturating_duration_since(self.since);
        if took > self.permit.0.takes() {
            self.answered(now);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, SeqCst);
        self.0.wake();
    }
}

/// Takes a waiter out of the queue, however its wait ends.
struct Queued<'a> {
    limit: &'a Arc<Limit>,
    ticket: u64,
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        {
            let mut queue = self.limit.queue.lock();
            queue.remove(self.ticket);
            self.limit.waiting.store(length(&queue), SeqCst);
        }
        // With nobody in the queue who comes next need not wait, and who stands in it may have been passed over.
        self.limit.wake();
    }
}

fn bounds(spec: &spec::Concurrency) -> Bounds {
    let (min, initial, max) = spec.bounds();
    let percent = spec.tolerance_percent.unwrap_or(defaults::CONCURRENCY_TOLERANCE_PERCENT);
    let tolerance = 1.0 + f64::from(percent.max(1)) / 100.0;
    Bounds { min: f64::from(min), initial: f64::from(initial), max: f64::from(max), tolerance }
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "between the bounds, which are whole numbers of 32 bits"
)]
fn whole(limit: f64) -> u32 {
    limit as u32
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn length(queue: &Queue<Waiter>) -> u32 {
    u32::try_from(queue.len()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
