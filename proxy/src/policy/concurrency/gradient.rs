//! How large the limit is: by how long requests take now, compared with how long they take when nothing waits.
//!
//! The idea is Netflix's gradient of two averages, with four rules of our own where it is known to fail:
//!
//! * The long average may hardly rise while the limit is used, and not at all while it keeps many out. Under overload requests take longer
//!   because of the limit itself, and an average that followed would let the limit, and the time, grow without end. Nor does the
//!   limit shrink while it keeps hardly anybody out: it cannot be what makes requests slow then.
//! * A limit that keeps many out although requests take no longer than usual is too small, and grows by a quarter in a window; one of
//!   which nothing is known yet, or that failures have lowered, doubles.
//! * Nothing is measured by shrinking the limit on purpose (Envoy does, and refuses healthy traffic meanwhile: envoyproxy/envoy#8337).
//! * Where the limit has shrunk far and requests take as long as before, it is not the queue that makes them slow: a deploy has, or
//!   what the application calls. What they take now is then what they take, and the limit grows again.
//!
//! No clock and no atomics: windows come in, a limit comes out.

use std::time::Duration;

/// Between these the limit moves, and how it begins.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bounds {
    /// Never below.
    pub min: f64,
    /// Where it begins.
    pub initial: f64,
    /// Never above.
    pub max: f64,
    /// Requests may take so many times as long as without a queue before the limit shrinks.
    pub tolerance: f64,
}

/// What came of the requests that were over in a while.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// Those that were answered, or left after longer than answers take.
    pub measured: u32,
    /// How long these took together.
    pub took: Duration,
    /// Those that failed as overload makes them fail: their time was up, or the application said that it is overloaded.
    pub dropped: u32,
    /// The most that were under way at once.
    pub most: u32,
    /// Requests that came and found no room.
    pub kept_out: u32,
}

/// The limit keeps many out where one of so many requests finds no room. A burst now and then is no overload.
const MANY: u32 = 10;
/// How the long average follows while the limit does not keep many out: downwards, upwards, and upwards where less than half of the limit is
/// used, when it can be no queue of the limit's.
const DOWN: f64 = 0.1;
const UP: f64 = 0.01;
const UP_AT_EASE: f64 = 0.05;
/// How it follows, both ways, in the first windows: the first answers are the quick ones.
const FIRST: f64 = 0.3;
const FIRST_WINDOWS: u32 = 10;
/// Chance alone makes windows so much shorter; where the limit keeps many out, and the average does not rise, that must not lower it.
const CHANCE: f64 = 0.7;
/// Requests take no longer than usual: up to so many times.
const USUAL: f64 = 1.15;
/// By how much the limit grows then in a window where it keeps many out; and where it is eager.
const MORE: f64 = 1.25;
const EAGER: f64 = 2.0;
/// The limit shrinks to this part in one window at most.
const LEAST: f64 = 0.5;
/// Shrunk to this part of what it was, the limit is asked whether that has helped, which it has where requests take less than this part
/// of the time that they took.
const FAR: f64 = 0.6;
const HELPED: f64 = 0.85;

/// The limit, and what it is found by.
#[derive(Clone, Debug)]
pub struct Gradient {
    bounds: Bounds,
    limit: f64,
    /// Seconds that a request takes when nothing waits, once that is known.
    long: Option<f64>,
    /// Windows of which it has learned that.
    windows: u32,
    /// Nothing has shown yet that the limit is large enough.
    eager: bool,
    /// The limit when it began to shrink, and the seconds that a request took then.
    shrinking: Option<(f64, f64)>,
}

impl Gradient {
    /// Nothing is known yet.
    pub fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            limit: bounds.initial.clamp(bounds.min, bounds.max),
            long: None,
            windows: 0,
            eager: true,
            shrinking: None,
        }
    }

    /// The limit.
    pub fn limit(&self) -> f64 {
        self.limit
    }

    /// Other bounds, and what is known stays known.
    pub fn bound(&mut self, bounds: Bounds) {
        self.bounds = bounds;
        self.limit = self.limit.clamp(bounds.min, bounds.max);
    }

    /// A window is over. The new limit.
    pub fn closed(&mut self, window: Window) -> f64 {
        let most = f64::from(window.most);
        let is_full = window.kept_out > 0 && window.kept_out.saturating_mul(MANY) >= window.measured;
        let is_used = is_full || most > self.limit / 2.0;
        if window.measured > 0 {
            let short = window.took.as_secs_f64() / f64::from(window.measured);
            let long = self.follow(short, is_full, is_used);
            self.step(self.bounds.tolerance * long / short.max(1e-9), short, is_full, is_used);
        }
        if window.dropped > 0 && is_used {
            let share = f64::from(window.dropped) / f64::from(window.dropped.saturating_add(window.measured));
            self.limit *= 1.0 - share / 2.0;
            self.eager = true;
        }
        self.limit = self.limit.clamp(self.bounds.min, self.bounds.max);
        self.limit
    }

    fn follow(&mut self, short: f64, is_full: bool, is_used: bool) -> f64 {
        let long = self.long.unwrap_or(short);
        self.windows = self.windows.saturating_add(1);
        let weight = match (short < long, is_full, is_used) {
            _ if self.windows <= FIRST_WINDOWS => FIRST,
            (true, true, _) if short > long * CHANCE => 0.0,
            (true, ..) => DOWN,
            (false, true, _) => 0.0,
            (false, false, true) => UP,
            (false, false, false) => UP_AT_EASE,
        };
        *self.long.insert(long + (short - long) * weight)
    }

    /// `gradient` is above 1 where requests take no longer than they may.
    fn step(&mut self, gradient: f64, short: f64, is_full: bool, is_used: bool) {
        if gradient >= 1.0 {
            self.shrinking = None;
            let is_usual = gradient * USUAL >= self.bounds.tolerance;
            if is_full && is_usual {
                self.limit *= if self.eager { EAGER } else { MORE };
            } else if is_used {
                // Slower the nearer it comes, so that it does not overshoot.
                let room = ((gradient - 1.0) / (self.bounds.tolerance - 1.0)).min(1.0);
                self.limit += self.limit.sqrt() / 2.0 * room;
            }
            return;
        }
        if !is_full {
            // It keeps hardly anybody out, so it is not what makes them slow, and shrinking it would only refuse those who come next.
            return;
        }
        self.eager = false;
        self.windows = FIRST_WINDOWS;
        let (from, took) = *self.shrinking.get_or_insert((self.limit, short));
        // Where it may not shrink any further, that is far too.
        if self.limit <= (from * FAR).max(self.bounds.min) {
            self.shrinking = None;
            if short > took * HELPED || self.limit <= self.bounds.min {
                self.long = Some(short);
                return;
            }
        }
        self.limit *= gradient.sqrt().max(LEAST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { min: 4.0, initial: 20.0, max: 1_000.0, tolerance: 1.5 };

    fn window(millis: u64, most: u32) -> Window {
        Window { measured: 100, took: Duration::from_millis(millis * 100), most, ..Window::default() }
    }

    #[test]
    fn it_grows_only_where_it_is_used() {
        let mut gradient = Gradient::new(BOUNDS);
        for _ in 0..100 {
            gradient.closed(window(10, 10));
        }
        assert!((gradient.limit() - 20.0).abs() < 1e-9, "half of it is enough");
        gradient.closed(window(10, 11));
        assert!(gradient.limit() > 20.0 && gradient.limit() < 23.0, "{}", gradient.limit());
    }

    #[test]
    fn slow_answers_that_keep_nobody_out_do_not_shrink_it() {
        let mut gradient = Gradient::new(BOUNDS);
        gradient.closed(window(10, 5));
        for _ in 0..1_000 {
            gradient.closed(Window { kept_out: 5, ..window(100, 15) });
        }
        assert!(gradient.limit() >= 20.0, "{}", gradient.limit());
    }

    #[test]
    fn under_overload_it_finds_what_the_application_can_do_and_stays_there() {
        // Eight at once, 10 ms each; what is more waits inside.
        let takes = |limit: f64| 10.0 * (limit / 8.0).max(1.0);
        let mut gradient = Gradient::new(BOUNDS);
        for _ in 0..FIRST_WINDOWS {
            gradient.closed(window(10, 5));
        }
        for round in 0..10_000 {
            let limit = gradient.limit().floor();
            let took = Duration::from_secs_f64(takes(limit) / 1e3 * 100.0);
            gradient.closed(Window { measured: 100, took, most: 1_000, kept_out: 200, dropped: 0 });
            assert!(round < 20 || (8.0..=13.0).contains(&limit), "{limit} in round {round}");
        }
    }

    #[test]
    fn what_takes_longer_for_good_is_taken_for_what_it_is() {
        let mut gradient = Gradient::new(BOUNDS);
        gradient.closed(window(10, 5));
        let mut least = f64::MAX;
        for _ in 0..30 {
            gradient.closed(Window { kept_out: 50, ..window(30, 1_000) });
            least = least.min(gradient.limit());
        }
        assert!(least > 8.0 && gradient.limit() > 20.0, "{least}, then {}", gradient.limit());
    }

    #[test]
    fn what_fails_by_overload_lowers_it_to_its_bound_and_not_below() {
        let mut gradient = Gradient::new(BOUNDS);
        for _ in 0..20 {
            gradient.closed(Window { dropped: 10, most: 20, ..Window::default() });
        }
        assert!((gradient.limit() - 4.0).abs() < 1e-9);
        let mut calm = Gradient::new(BOUNDS);
        calm.closed(Window { dropped: 1, ..window(10, 2) });
        assert!((calm.limit() - 20.0).abs() < 1e-9, "one that fails while there is room is no overload");
    }
}
