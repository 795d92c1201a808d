//! The simulation: when what happens to requests would have happened to them behind the observed bulkhead.
//!
//! A request that would have waited begins when a place would have come free, and everything that happens to it happens as much
//! later as it waited. So what it does is kept until then. Whatever is due is done before anything newer, in the order of its time;
//! clocks come after what happens at the same moment, as a try that ends at its end has ended.
//!
//! What it holds is bounded: the requests that are really under way, and of those that really are over the ones that would still be
//! waiting (`maxPending`) or inside (`maxRequests`, `maxConnections`). Without a bulkhead there are none of these.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use hashbrown::HashMap;
use tokio::time::Instant;

use super::{
    Facts, Shadow, Step, Would,
    course::{Course, Flow},
};
use crate::policy::bulkhead::{Limits, Need};

/// The requests of one callee that are followed.
#[derive(Debug)]
pub struct Line {
    now: Instant,
    limits: Limits,
    /// Requests inside, and those of them that have a connection of their own.
    requests: u32,
    connections: u32,
    queue: VecDeque<u64>,
    followed: HashMap<u64, Followed>,
    due: BTreeMap<Key, What>,
    numbers: u64,
}

/// When something is due, what comes after what at one moment, a number, and whose it is.
type Key = (Instant, Class, u64, u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    Event,
    Clock,
}

#[derive(Clone, Copy, Debug)]
enum What {
    Enter,
    Step(Step),
    Patience,
    Request,
    Attempt(u32),
    Slow(u32),
}

#[derive(Debug)]
struct Followed {
    shadow: Arc<Shadow>,
    facts: Facts,
    need: Need,
    /// When it really came to the bulkhead.
    came: Instant,
    place: Place,
    /// What is due of it.
    keys: Vec<Key>,
}

#[derive(Debug)]
enum Place {
    /// In the queue, with what has happened to it really.
    Waiting(Vec<(Instant, Step)>),
    /// Inside, so much later than it really was.
    Inside(Duration, Course),
}

impl Line {
    /// Nobody is followed yet.
    pub fn new(limits: Limits, now: Instant) -> Self {
        Self {
            now,
            limits,
            requests: 0,
            connections: 0,
            queue: VecDeque::new(),
            followed: HashMap::new(),
            due: BTreeMap::new(),
            numbers: 0,
        }
    }

    /// Puts other limits in force. Who is inside stays.
    pub fn set(&mut self, limits: Limits, now: Instant) {
        self.advance(now);
        self.limits = limits;
        self.admit(self.now);
    }

    /// Requests that it holds.
    pub fn len(&self) -> usize {
        self.followed.len()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.followed.is_empty()
    }

    /// A request comes to the bulkhead: its number.
    pub fn enter(&mut self, shadow: Arc<Shadow>, facts: Facts, need: Need, now: Instant) -> u64 {
        let now = now.max(self.now);
        self.numbers += 1;
        let number = self.numbers;
        let place = Place::Waiting(Vec::new());
        self.followed.insert(number, Followed { shadow, facts, need, came: now, place, keys: Vec::new() });
        self.schedule(number, now, Class::Event, What::Enter);
        self.advance(now);
        number
    }

    /// Something really happens to a request.
    pub fn tell(&mut self, number: u64, step: Step, now: Instant) {
        let now = now.max(self.now);
        match self.followed.get_mut(&number).map(|followed| &mut followed.place) {
            Some(Place::Waiting(kept)) => kept.push((now, step)),
            Some(Place::Inside(later, _)) => {
                let at = now + *later;
                self.schedule(number, at, Class::Event, What::Step(step));
            }
            None => {}
        }
        self.advance(now);
    }

    /// Does all that is due by `now`.
    pub fn advance(&mut self, now: Instant) {
        while let Some(due) = self.due.first_entry().filter(|due| due.key().0 <= now) {
            let (key, what) = due.remove_entry();
            let (at, _, _, number) = key;
            self.now = self.now.max(at);
            if let Some(followed) = self.followed.get_mut(&number) {
                followed.keys.retain(|other| *other != key);
                self.happens(number, what, at);
            }
        }
        self.now = self.now.max(now);
    }

    fn schedule(&mut self, number: u64, at: Instant, class: Class, what: What) {
        self.numbers += 1;
        let key = (at, class, self.numbers, number);
        if let Some(followed) = self.followed.get_mut(&number) {
            followed.keys.push(key);
            self.due.insert(key, what);
        }
    }

    fn happens(&mut self, number: u64, what: What, at: Instant) {
        match what {
            What::Enter => self.enters(number, at),
            What::Patience => self.gives_up(number, Would::EndWait, at),
            What::Request => self.request_ends(number, at),
            What::Step(step) => {
                let flow = self.inside(number, |course, shadow, facts| course.step(step, shadow, facts, at));
                if let (Step::Began { number: one, .. }, Flow::On) = (step, flow) {
                    self.start_clocks(number, one, at);
                }
                self.end_if(number, flow, at);
            }
            What::Attempt(one) => {
                let flow = self.inside(number, |course, shadow, facts| course.attempt_ends(one, shadow, facts, at));
                self.end_if(number, flow, at);
            }
            What::Slow(one) => {
                let room = self.queue.is_empty() && self.followed.get(&number).is_some_and(|it| self.fits(it.need));
                self.inside(number, |course, shadow, facts| {
                    course.slow(one, shadow, facts, room, at);
                    Flow::On
                });
            }
        }
    }

    fn inside(&mut self, number: u64, act: impl FnOnce(&mut Course, &Shadow, &Facts) -> Flow) -> Flow {
        match self.followed.get_mut(&number) {
            Some(Followed { place: Place::Inside(_, course), shadow, facts, .. }) => act(course, shadow, facts),
            _ => Flow::On,
        }
    }

    fn enters(&mut self, number: u64, at: Instant) {
        let Some(followed) = self.followed.get(&number) else { return };
        let (facts, counts) = (followed.facts, Arc::clone(&followed.shadow.counts));
        let request_end = followed.shadow.plan(&facts).clocks.request_end(facts.asked.started);
        let at_once = self.queue.is_empty() && self.fits(followed.need);
        if !at_once && self.queue.len() >= self.limits.max_pending as usize {
            counts.add(Would::RefuseFull);
            return self.forget(number);
        }
        if let Some(end) = request_end {
            self.schedule(number, end.at.max(at), Class::Clock, What::Request);
        }
        if at_once {
            return self.lets_in(number, at);
        }
        counts.add(Would::Queue);
        self.queue.push_back(number);
        if let Some(until) = at.checked_add(self.limits.max_pending_time) {
            self.schedule(number, until, Class::Clock, What::Patience);
        }
    }

    /// Who has a place does everything so much later as it waited for it.
    fn lets_in(&mut self, number: u64, at: Instant) {
        let Some(followed) = self.followed.get_mut(&number) else { return };
        let later = at.saturating_duration_since(followed.came);
        let place = std::mem::replace(&mut followed.place, Place::Inside(later, Course::default()));
        self.requests += 1;
        self.connections += u32::from(followed.need == Need::Exchange);
        if let Place::Waiting(kept) = place {
            for (really, step) in kept {
                self.schedule(number, really + later, Class::Event, What::Step(step));
            }
        }
    }

    fn start_clocks(&mut self, number: u64, one: u32, at: Instant) {
        let Some(Followed { place: Place::Inside(_, course), shadow, facts, .. }) = self.followed.get(&number) else {
            return;
        };
        let plan = shadow.plan(facts);
        let (attempt, after) = (plan.clocks.attempt, course.hedge(plan, facts).map(|hedge| hedge.after));
        if let Some(attempt) = attempt {
            self.schedule(number, at + attempt, Class::Clock, What::Attempt(one));
        }
        if let Some(after) = after {
            self.schedule(number, at + after, Class::Clock, What::Slow(one));
        }
    }

    fn request_ends(&mut self, number: u64, at: Instant) {
        if matches!(self.followed.get(&number).map(|followed| &followed.place), Some(Place::Waiting(_))) {
            return self.gives_up(number, Would::TimeOut, at);
        }
        let flow = self.inside(number, |course, shadow, facts| course.request_ends(shadow, facts, at));
        self.end_if(number, flow, at);
    }

    /// Leaves the queue, if it is still there.
    fn gives_up(&mut self, number: u64, would: Would, at: Instant) {
        let Some(followed) = self.followed.get(&number) else { return };
        if matches!(followed.place, Place::Waiting(_)) {
            followed.shadow.counts.add(would);
            self.queue.retain(|waiting| *waiting != number);
            self.forget(number);
            // Who stood behind may fit where this one did not.
            self.admit(at);
        }
    }

    fn end_if(&mut self, number: u64, flow: Flow, at: Instant) {
        if flow == Flow::Over
            && let Some(followed) = self.followed.get(&number)
        {
            self.requests -= 1;
            self.connections -= u32::from(followed.need == Need::Exchange);
            self.forget(number);
            self.admit(at);
        }
    }

    fn forget(&mut self, number: u64) {
        for key in self.followed.remove(&number).into_iter().flat_map(|followed| followed.keys) {
            self.due.remove(&key);
        }
    }

    fn admit(&mut self, at: Instant) {
        while let Some(first) = self.queue.front().copied()
            && self.followed.get(&first).is_none_or(|followed| self.fits(followed.need))
        {
            self.queue.pop_front();
            self.lets_in(first, at);
        }
    }

    fn fits(&self, need: Need) -> bool {
        self.requests < self.limits.max_requests
            && (need != Need::Exchange || self.connections < self.limits.max_connections)
    }
}
