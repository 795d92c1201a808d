//! The parts of a policy in force, in simulated time and in the pipeline's order, with tries that take and bring what a series says.
//!
//! Where nobody can know how a request goes on it ends as docs/observe.md says: a further try that the series does not have, or that
//! comes after one that a clock cut short, is paid for and ends the request; a second try beside a slow one never answers; and a try
//! that would have gone to another endpoint is told to nobody.

use std::{cell::RefCell, time::Duration};

use firebreak_crds::wire;
use futures::future::join_all;
use tokio::time::sleep_until;

use super::{
    super::{tests::observer, *},
    Case, TryCase,
};
use crate::{
    policy::{
        breaker::Outcome,
        bulkhead::{self, Gate, Permit},
        retry::{Again, Brought, Prospect, Told},
        timeout::End,
    },
    verdict::Reason,
};

/// Everything that decides, as it is for a policy in force.
struct Enforced {
    parts: Arc<Shadow>,
    gate: Arc<Gate>,
    /// When something happened or could have happened, and to which request.
    moments: RefCell<Vec<(Instant, usize)>>,
}

/// A request that is inside.
struct Request<'a> {
    world: &'a Enforced,
    case: &'a Case,
    number: usize,
    plan: &'a Plan,
    counts: &'a Counts,
    started: Instant,
    made: u32,
    hedged: bool,
}

type Tickets = [Option<Ticket>; 2];

/// How a try begins.
enum Begun {
    Admitted(Tickets),
    /// It would go to another endpoint.
    Diverted,
    Refused,
}

/// What the policy decides in force of each request, and what its breakers did; nothing where two things happen at once.
pub(super) async fn enforced(
    policy: &wire::Policy,
    cases: &[Case],
    start: Instant,
) -> Option<(Vec<Counts>, Arc<Shadow>)> {
    let parts = observer(policy, start).shadow;
    let gate = Gate::new(policy.bulkhead.as_ref().map_or(bulkhead::Limits::NONE, Into::into));
    let world = Enforced { parts: Arc::clone(&parts), gate, moments: RefCell::default() };
    let decided = join_all(cases.iter().enumerate().map(|(number, case)| world.decide(number, case, start))).await;
    let mut moments = world.moments.into_inner();
    moments.sort_unstable();
    moments.windows(2).all(|two| two[0].0 != two[1].0).then_some((decided, parts))
}

impl Enforced {
    fn may_happen(&self, at: impl IntoIterator<Item = Instant>, number: usize) {
        self.moments.borrow_mut().extend(at.into_iter().map(|at| (at, number)));
    }

    async fn decide(&self, number: usize, case: &Case, start: Instant) -> Counts {
        let counts = Counts::default();
        let started = start + case.arrives;
        self.may_happen([started], number);
        sleep_until(started).await;
        if self.parts.rate.as_ref().is_some_and(|rate| rate.take(started).is_err()) {
            counts.add(Would::LimitRate);
            return counts;
        }
        let head = case.head();
        let plan = self.parts.policy.plan_of(self.parts.policy.route(&head));
        let request_end = plan.clocks.request_end(started).map(|end| end.at);
        self.may_happen(request_end, number);
        let permit = self.permit(number, request_end, &counts).await;
        if permit.is_some() {
            let (made, hedged, counts) = (0, false, &counts);
            Request { world: self, case, number, plan, counts, started, made, hedged }.run().await;
        }
        drop(permit);
        counts
    }

    async fn permit(&self, number: usize, end: Option<Instant>, counts: &Counts) -> Option<Permit> {
        let at_once = self.gate.try_acquire(Need::Exchange);
        if at_once.is_some() {
            return at_once;
        }
        let patience = Instant::now().checked_add(self.gate.limits().max_pending_time);
        let waited = match self.gate.acquire(Need::Exchange, end).await {
            Err(bulkhead::Refused::Full) => {
                counts.add(Would::RefuseFull);
                return None;
            }
            Err(bulkhead::Refused::TimedOut) => Err(Would::EndWait),
            Err(bulkhead::Refused::Deadline) => Err(Would::TimeOut),
            Ok(permit) => Ok(permit),
        };
        // A place that comes free in the moment in which the wait ends is one of two things at once.
        self.may_happen(patience, number);
        counts.add(Would::Queue);
        waited.map_err(|would| counts.add(would)).ok()
    }

    fn admit(&self, plan: &Plan, started: Instant) -> Result<Option<Ticket>, Refused> {
        let now = Instant::now();
        self.parts.breaker.as_ref().map(|it| it.admit(now, plan.clocks.probe_end(started, now))).transpose()
    }

    /// Takes another try of the budget.
    fn spend(&self) -> bool {
        self.parts.policy.extra.budget.as_ref().is_none_or(|budget| budget.take(Instant::now()))
    }
}

impl Request<'_> {
    async fn run(&mut self) {
        for (index, one) in self.case.tries.iter().enumerate() {
            let tickets = match self.begin(one) {
                Begun::Admitted(tickets) => tickets,
                Begun::Refused => return,
                Begun::Diverted => return self.goes_on_unknown(index).await,
            };
            if !self.make(one, tickets, index).await {
                return;
            }
        }
    }

    /// Asks the breakers.
    fn begin(&mut self, one: &TryCase) -> Begun {
        let Ok(service) = self.world.admit(self.plan, self.started) else {
            if self.made == 0 {
                self.counts.add(Would::RefuseOpen);
            }
            return Begun::Refused;
        };
        let now = Instant::now();
        let end = self.plan.clocks.probe_end(self.started, now);
        let endpoint = self.world.parts.endpoints.get(&one.endpoint);
        let at_endpoint = endpoint.map(|breaker| breaker.admit(now, end)).transpose();
        if self.made == 0 {
            self.world.parts.policy.extra.request(self.plan, self.started);
        } else if self.plan.retries.is_some() {
            self.counts.add(Would::Retry);
        }
        self.made += 1;
        match at_endpoint {
            Ok(ticket) => Begun::Admitted([service, ticket]),
            Err(_) => {
                self.counts.add(Would::Divert);
                Begun::Diverted
            }
        }
    }

    /// Makes a try, up to the beginning of the next or the end of the request. Whether there is a next.
    async fn make(&mut self, one: &TryCase, tickets: Tickets, index: usize) -> bool {
        let began = Instant::now();
        let ends = began + one.takes;
        self.world.may_happen([ends], self.number);
        let cut = self.plan.clocks.attempt_end(began, self.plan.clocks.request_end(self.started));
        let by_attempt = cut.filter(|cut| cut.reason == Reason::AttemptTimeout);
        self.world.may_happen(by_attempt.map(|cut| cut.at), self.number);
        let until = cut.map_or(ends, |cut| cut.at.min(ends));
        let hedge = self.plan.hedge_beside(self.made).filter(|_| self.case.hedgeable() && !self.hedged);
        if let Some(slow) = hedge.map(|hedge| began + hedge.after).filter(|slow| *slow < until) {
            self.world.may_happen([slow], self.number);
            sleep_until(slow).await;
            self.hedge(&tickets);
        }
        sleep_until(until).await;
        if let Some(cut) = cut.filter(|cut| cut.at < ends) {
            self.cut_short(cut, began, tickets);
            return false;
        }
        let last = index + 1 == self.case.tries.len();
        let late = self.tell(one.brings, tickets, last);
        let wanted = self.wants(one.brings, one.told, self.case.replayable, self.case.layered);
        let Some(next) = self.case.tries.get(index + 1) else {
            self.finish(late, wanted).await;
            return false;
        };
        // Without retries of its own, tries are those that are really made.
        self.has_time_until(ends + next.pause).await && wanted.is_none_or(|wanted| wanted && self.world.spend())
    }

    fn hedge(&mut self, first: &Tickets) {
        let extra = &self.world.parts.policy.extra;
        let (Some(hedges), Some(budget)) = (&extra.hedges, &extra.budget) else { return };
        let now = Instant::now();
        if !hedges.take(now) {
            return;
        }
        let leased = |ticket: &Ticket| ticket.is_leased();
        let free = !first.iter().flatten().any(leased)
            && self.world.admit(self.plan, self.started).is_ok_and(|second| !second.as_ref().is_some_and(leased));
        if !free || self.world.gate.try_acquire(Need::Exchange).is_none() || !budget.take(now) {
            return hedges.put_back();
        }
        (self.hedged, self.made) = (true, self.made + 1);
        self.counts.add(Would::Hedge);
    }

    fn cut_short(&self, cut: End, began: Instant, tickets: Tickets) {
        self.counts.add(Would::TimeOut);
        let by_attempt = cut.reason == Reason::AttemptTimeout;
        if by_attempt || self.plan.clocks.had_its_time(began.elapsed()) {
            ended(tickets, Outcome::Failed);
        }
        let brought = Brought::Nothing { reason: cut.reason, grpc: self.case.grpc };
        if by_attempt && self.wants(brought, Told::Nothing, true, false) == Some(true) {
            self.pay_for_one_unseen();
        }
    }

    /// Tells the breakers what became of a try, but for those that hear of it at the end of the request.
    fn tell(&self, brings: Brought, mut tickets: Tickets, last: bool) -> Option<Tickets> {
        match self.case.verdict(brings, last) {
            Verdict::Told(outcome) => ended(tickets, outcome),
            Verdict::Later => {
                tickets.iter_mut().flatten().for_each(|ticket| ticket.answered(Instant::now()));
                return Some(tickets);
            }
            Verdict::Nothing => {}
        }
        None
    }

    /// Whether another try is wanted, if there are retries.
    fn wants(&self, brought: Brought, told: Told, replayable: bool, layered: bool) -> Option<bool> {
        let retries = self.plan.retries.as_ref()?;
        let head = self.case.head();
        let left = self.plan.clocks.request_end(self.started).map(|end| end.at.duration_since(Instant::now()));
        let layered = layered || self.case.layers > 1;
        let prospect = Prospect { made: self.made, replayable, layered, told, left };
        let budget = self.world.parts.policy.extra.budget.as_ref();
        let wanted = retries.wants(brought, retries.repeatable(&head.method, &head.headers))
            && matches!(retries.again(prospect, fastrand::f64()), Again::After(_))
            && budget.is_none_or(|budget| budget.allows(Instant::now()));
        Some(wanted)
    }

    /// The rest of the last answer.
    async fn finish(&self, late: Option<Tickets>, wanted: Option<bool>) {
        if self.has_time_until(Instant::now() + self.case.body).await {
            if let (Some(late), Some(outcome)) = (late, self.case.at_last) {
                ended(late, outcome);
            }
            if wanted == Some(true) {
                self.pay_for_one_unseen();
            }
        }
    }

    /// A further try that nobody has seen.
    fn pay_for_one_unseen(&self) {
        if self.world.spend() && self.world.admit(self.plan, self.started).is_ok() {
            self.counts.add(Would::Retry);
        }
    }

    /// Waits until then. Whether the request clock has not run out before.
    async fn has_time_until(&self, until: Instant) -> bool {
        self.world.may_happen([until], self.number);
        let end = self.plan.clocks.request_end(self.started).filter(|end| end.at < until);
        sleep_until(end.map_or(until, |end| end.at)).await;
        end.inspect(|_| self.counts.add(Would::TimeOut)).is_none()
    }

    /// Keeps the place until the request is really over, or until its clock runs out, of which nobody knows whether it would have.
    async fn goes_on_unknown(&self, index: usize) {
        let (this, rest) = (&self.case.tries[index], &self.case.tries[index + 1..]);
        let rest: Duration = rest.iter().map(|one| one.pause + one.takes).sum();
        let over = Instant::now() + this.takes + rest + self.case.body;
        self.world.may_happen([over], self.number);
        sleep_until(self.plan.clocks.request_end(self.started).map_or(over, |end| end.at.min(over))).await;
    }
}

fn ended(tickets: Tickets, outcome: Outcome) {
    tickets.into_iter().flatten().for_each(|ticket| ticket.ended(outcome, Instant::now()));
}
