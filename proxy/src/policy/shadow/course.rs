//! What becomes of one request under the observed policy, once the bulkhead has let it in.
//!
//! It is the pipeline's order again (breaker, endpoint's breaker, budget, outcome, wanted again?), with tries that are told instead
//! of made.

use std::net::SocketAddr;

use tokio::time::Instant;

use super::{Facts, Shadow, Would};
use crate::{
    policy::{
        breaker::{Outcome, Ticket},
        hedge::Hedge,
        retry::{Again, Brought, Prospect, Told},
    },
    snapshot::Plan,
    verdict::Reason,
};

/// Something that really happens to a request. Tries have the numbers that the request's record has.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Step {
    /// A try begins.
    Began {
        /// Its number.
        number: u32,
        /// Where it goes.
        endpoint: SocketAddr,
    },
    /// The head of a response has come, and what became of the try has not.
    Answered(u32),
    /// A try is over.
    Ended {
        /// Its number.
        number: u32,
        /// What breakers are to hear of it.
        verdict: Verdict,
        /// What retries look at.
        brought: Brought,
        /// What the answer says about another try.
        told: Told,
        /// Whether the request could be sent again: its body is kept.
        replayable: bool,
        /// Whether a layer below has tried again in vain.
        layered: bool,
    },
    /// A try was given up for the one beside it.
    GivenUp(u32),
    /// The request is over, with this for the breakers that wait for its end.
    Over(Option<Outcome>),
}

/// What breakers hear of a try that is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// This.
    Told(Outcome),
    /// It is told when the request is over.
    Later,
    /// It says nothing of the callee.
    Nothing,
}

/// Whether there is more to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flow {
    /// There is.
    On,
    /// It would have been over, or nobody knows how it would have gone on.
    Over,
}

/// A request that is inside.
#[derive(Debug, Default)]
pub(super) struct Course {
    tries: Vec<Running>,
    /// Breakers that are told at the request's end.
    late: Option<Tickets>,
    /// Tries, and the second one that would have been made beside a slow one.
    made: u32,
    hedged: bool,
    next: Next,
}

/// What comes after the tries that are over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Next {
    /// Whatever really comes.
    #[default]
    AsItIs,
    /// Another try: the policy wants one.
    Another,
    /// Nothing: what the last one brought would have been the request's answer.
    Nothing,
    /// What it does from here on nobody knows. It has its place until it is over.
    Unknown,
}

#[derive(Debug)]
struct Running {
    number: u32,
    began: Instant,
    answered: bool,
    tickets: Tickets,
}

#[derive(Debug, Default)]
struct Tickets([Option<Ticket>; 2]);

impl Tickets {
    fn ended(self, outcome: Outcome, now: Instant) {
        self.0.into_iter().flatten().for_each(|ticket| ticket.ended(outcome, now));
    }

    fn answered(&mut self, now: Instant) {
        self.0.iter_mut().flatten().for_each(|ticket| ticket.answered(now));
    }

    fn is_leased(&self) -> bool {
        self.0.iter().flatten().any(Ticket::is_leased)
    }
}

impl Course {
    /// Does what a step does at `now`.
    pub(super) fn step(&mut self, step: Step, shadow: &Shadow, facts: &Facts, now: Instant) -> Flow {
        match step {
            Step::Over(outcome) => {
                if let (Some(late), Some(outcome)) = (self.late.take(), outcome) {
                    late.ended(outcome, now);
                }
                self.unseen(shadow, facts, now);
                Flow::Over
            }
            _ if self.next == Next::Unknown => Flow::On,
            Step::Began { number, endpoint } => self.began(number, endpoint, shadow, facts, now),
            Step::Answered(number) => {
                for one in self.tries.iter_mut().filter(|one| one.number == number) {
                    one.answered = true;
                    one.tickets.answered(now);
                }
                Flow::On
            }
            Step::Ended { number, verdict, brought, told, replayable, layered } => {
                if let Some(one) = self.take(number) {
                    if cut_short(brought, shadow.plan(facts)) {
                        self.next = Next::Unknown;
                        return Flow::On;
                    }
                    self.ended(one, verdict, now);
                    let prospect = self.prospect(told, shadow.plan(facts), facts, now);
                    let layered = layered || prospect.layered;
                    self.weigh(brought, Prospect { replayable, layered, ..prospect }, shadow, facts, now);
                }
                Flow::On
            }
            Step::GivenUp(number) => {
                drop(self.take(number));
                Flow::On
            }
        }
    }

    /// Its attempt clock has run out.
    pub(super) fn attempt_ends(&mut self, number: u32, shadow: &Shadow, facts: &Facts, now: Instant) -> Flow {
        let Some(one) = self.take(number) else { return Flow::On };
        shadow.counts.add(Would::TimeOut);
        self.ended(one, Verdict::Told(Outcome::Failed), now);
        if !self.tries.is_empty() {
            return Flow::On;
        }
        let brought = Brought::Nothing { reason: Reason::AttemptTimeout, grpc: facts.asked.grpc };
        let prospect = self.prospect(Told::Nothing, shadow.plan(facts), facts, now);
        self.weigh(brought, prospect, shadow, facts, now);
        self.unseen(shadow, facts, now);
        Flow::Over
    }

    /// Its request clock has run out. What was cut short says something of the callee if it had nearly all of its time.
    pub(super) fn request_ends(&mut self, shadow: &Shadow, facts: &Facts, now: Instant) -> Flow {
        if self.next != Next::Unknown {
            shadow.counts.add(Would::TimeOut);
        }
        let clocks = shadow.plan(facts).clocks;
        for one in self.tries.drain(..) {
            if clocks.had_its_time(now.saturating_duration_since(one.began)) {
                one.tickets.ended(Outcome::Failed, now);
            }
        }
        Flow::Over
    }

    /// What the policy says of a second try beside the one that has begun, if there may be one.
    pub(super) fn hedge(&self, plan: &Plan, facts: &Facts) -> Option<Hedge> {
        plan.hedge_beside(self.made).filter(|_| facts.hedgeable && !self.hedged)
    }

    /// A try has been slow for as long as the policy has patience. `room` says whether the bulkhead has a place for another. How
    /// the second would have fared nobody knows: it counts as one that the request has come to, and the first goes on.
    pub(super) fn slow(&mut self, number: u32, shadow: &Shadow, facts: &Facts, room: bool, now: Instant) {
        let alone = self.tries.len() == 1;
        let Some(one) = self.tries.iter().find(|one| one.number == number) else { return };
        let extra = &shadow.policy.extra;
        let (Some(hedges), Some(budget)) = (&extra.hedges, &extra.budget) else { return };
        if one.answered || !alone || self.hedged || !hedges.take(now) {
            return;
        }
        let closed = |ticket: Option<Ticket>| !ticket.is_some_and(|ticket| ticket.is_leased());
        let free = !one.tickets.is_leased() && shadow.admit(facts, now).is_ok_and(closed);
        if !free || !room || !budget.take(now) {
            return hedges.put_back();
        }
        self.hedged = true;
        self.made += 1;
        shadow.counts.add(Would::Hedge);
    }

    fn began(&mut self, number: u32, endpoint: SocketAddr, shadow: &Shadow, facts: &Facts, now: Instant) -> Flow {
        let again = self.made > 0 && self.tries.is_empty();
        let next = if again { std::mem::take(&mut self.next) } else { Next::AsItIs };
        if next == Next::Nothing || next == Next::Another && !shadow.spend(now) {
            return Flow::Over;
        }
        let plan = shadow.plan(facts);
        let end = plan.clocks.probe_end(facts.asked.started, now);
        let Ok(service) = shadow.admit(facts, now) else {
            if self.made == 0 {
                shadow.counts.add(Would::RefuseOpen);
            }
            return Flow::Over;
        };
        let at_endpoint = shadow.endpoints.get(&endpoint).map(|breaker| breaker.admit(now, end)).transpose();
        if self.made == 0 {
            shadow.policy.extra.request(plan, facts.asked.started);
        }
        if next == Next::Another {
            shadow.counts.add(Would::Retry);
        }
        self.made += 1;
        match at_endpoint {
            Ok(ticket) => {
                let tickets = Tickets([service, ticket]);
                self.tries.push(Running { number, began: now, answered: false, tickets });
            }
            Err(_) => {
                shadow.counts.add(Would::Divert);
                self.next = Next::Unknown;
            }
        }
        Flow::On
    }

    fn take(&mut self, number: u32) -> Option<Running> {
        let place = self.tries.iter().position(|one| one.number == number)?;
        Some(self.tries.swap_remove(place))
    }

    fn ended(&mut self, one: Running, verdict: Verdict, now: Instant) {
        let mut tickets = one.tickets;
        match verdict {
            Verdict::Told(outcome) => tickets.ended(outcome, now),
            Verdict::Later => {
                tickets.answered(now);
                self.late = Some(tickets);
            }
            Verdict::Nothing => {}
        }
    }

    /// Whether the policy wants another try. Without retries of its own it takes those that are made as they are.
    fn weigh(&mut self, brought: Brought, after: Prospect, shadow: &Shadow, facts: &Facts, now: Instant) {
        let Some(retries) = shadow.plan(facts).retries.as_ref().filter(|_| self.tries.is_empty()) else { return };
        let budget = shadow.policy.extra.budget.as_ref();
        let wanted = retries.wants(brought, facts.repeatable)
            && matches!(retries.again(after, fastrand::f64()), Again::After(_))
            && budget.is_none_or(|budget| budget.allows(now));
        self.next = if wanted { Next::Another } else { Next::Nothing };
    }

    /// What another try depends on, of a request whose body is kept.
    fn prospect(&self, told: Told, plan: &Plan, facts: &Facts, now: Instant) -> Prospect {
        let left = plan.clocks.request_end(facts.asked.started).map(|end| end.at.saturating_duration_since(now));
        Prospect { made: self.made, replayable: true, layered: facts.asked.layers > 1, told, left }
    }

    /// No more is seen of the request. If another try was wanted it would be made now, and nobody knows how it would fare.
    fn unseen(&mut self, shadow: &Shadow, facts: &Facts, now: Instant) {
        let wanted = std::mem::take(&mut self.next) == Next::Another;
        if wanted && shadow.spend(now) && shadow.admit(facts, now).is_ok() {
            shadow.counts.add(Would::Retry);
        }
    }
}

impl Shadow {
    /// Takes a try of the budget, if there is one.
    fn spend(&self, now: Instant) -> bool {
        self.policy.extra.budget.as_ref().is_none_or(|budget| budget.take(now))
    }
}

/// Whether a clock of the policy in force ended a try that has clocks of its own here, which have not run out: how it would have
/// gone on nobody knows.
fn cut_short(brought: Brought, plan: &Plan) -> bool {
    let has_clocks = plan.clocks.attempt.or(plan.clocks.request).is_some();
    matches!(brought, Brought::Nothing { reason, .. } if has_clocks && reason.is_clock())
}
