//! Two tries at once: a second beside a first that is slow, and the first good answer wins.
//!
//! Both run in the request's own task and are polled together, so giving one up is dropping it: its HTTP/1 connection closes,
//! its HTTP/2 stream is reset (CANCEL), its breakers hear nothing of it, and its place in the bulkhead is free.
//!
//! A failure does not win. What fails while the other is under way is over, and the other decides. What two failures brought
//! retries look at as if it had come of one try.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    ptr,
    task::Poll,
};

use tokio::time::timeout_at;

use super::{
    attempt::{Got, Try},
    pipeline::{Sending, brought, need},
    reply,
    tries::Ended,
};
use crate::{
    clock,
    policy::{
        budget::Budget,
        hedge::{Hedge, Refused},
        retry::{Brought, is_idempotent},
        shadow::Step,
    },
    snapshot::Admitted,
    telemetry::metrics::Shard,
    verdict::{AttemptOutcome, Reason},
};

impl Sending<'_> {
    /// Makes a try, and one more beside it if it is slow and the policy wants that. What the one brought that decided.
    pub(super) async fn race(&mut self, admitted: Admitted) -> Result<Got, Reason> {
        let first = self.begin_first(admitted);
        // In boxes: a request without a second try does not carry the room for one.
        let mut second = None;
        let (by, outcome) = {
            let this = &*self;
            let mut one = pin!(this.bounded_try(&first));
            let in_time = match this.hedge(&first) {
                None => Some(one.as_mut().await),
                Some(hedge) => timeout_at(first.began + hedge.after, one.as_mut()).await.ok(),
            };
            match in_time {
                Some(outcome) => this.alone(&first, outcome),
                None => Box::pin(this.late(&first, one, &mut second)).await,
            }
        };
        self.decide(by);
        outcome
    }

    /// A try was not over in time: another beside it, if there may be one.
    async fn late<'t>(
        &self,
        first: &'t Try,
        one: Pin<&mut impl Future<Output = Result<Got, Reason>>>,
        second: &'t mut Option<Box<Try>>,
    ) -> (&'t Try, Result<Got, Reason>) {
        // What has a head is not slow any more, although its status may be to come.
        if first.answered.get() {
            return self.alone(first, one.await);
        }
        match self.second(first) {
            Ok(begun) => self.both(first, one, second.insert(Box::new(begun))).await,
            Err(cause) => {
                self.shard().hedges_refused[cause as usize].increment();
                self.alone(first, one.await)
            }
        }
    }

    /// A try has ended without another beside it.
    fn alone<'t>(&self, one: &'t Try, outcome: Result<Got, Reason>) -> (&'t Try, Result<Got, Reason>) {
        self.ended(one, &outcome);
        (one, outcome)
    }

    /// What the policy says of a second try beside `first`, if there may be one at all.
    fn hedge(&self, first: &Try) -> Option<Hedge> {
        let hedge = self.plan.hedge_beside(first.number).filter(|_| self.hedgeable.get())?;
        let head = self.head.borrow();
        is_idempotent(&head.method, &head.headers).then_some(hedge)
    }

    /// Begins a second try beside `first`.
    fn second(&self, first: &Try) -> Result<Try, Refused> {
        if self.call.on_behalf > 1 {
            return Err(Refused::Layers);
        }
        if !self.source.is_whole() {
            return Err(Refused::Body);
        }
        let extra = self.call.callee.policy.as_ref().map(|policy| &policy.extra);
        let hedges = extra.and_then(|extra| extra.hedges.as_ref()).ok_or(Refused::ExtraLoad)?;
        let budget = extra.and_then(|extra| extra.budget.as_ref()).ok_or(Refused::Budget)?;
        if !hedges.take(clock::now()) {
            return Err(Refused::ExtraLoad);
        }
        let last = self.last_way.get();
        self.admit_second(first, budget).inspect_err(|_| {
            hedges.put_back();
            self.last_way.set(last);
        })
    }

    fn admit_second(&self, first: &Try, budget: &Budget) -> Result<Try, Refused> {
        // Whoever is just coming back gets what its breaker admits one by one, and not twice.
        let closed = |admitted: &Admitted| !admitted.is_leased();
        let of_first = first.admitted.take();
        let first_is_free = closed(&of_first);
        first.admitted.set(of_first);
        let admitted = if first_is_free { self.pass_breakers().ok().filter(closed) } else { None };
        let admitted = admitted.ok_or(Refused::Breaker)?;
        // It does not wait for room: that would help nobody.
        let permit = self.call.callee.gate.try_acquire(need(self.head.borrow().version)).ok_or(Refused::Bulkhead)?;
        if !budget.take(clock::now()) {
            return Err(Refused::Budget);
        }
        self.hedgeable.set(false);
        self.shard().hedges_sent.increment();
        let used = first.used.take();
        first.used.set(used.clone());
        Ok(self.begin(admitted, used, Some(permit)))
    }

    /// Waits for the first good answer of two tries. If neither is good, an answer is better than none, and the later better than
    /// the earlier. Says which one decided.
    async fn both<'t>(
        &self,
        first: &'t Try,
        mut one: Pin<&mut impl Future<Output = Result<Got, Reason>>>,
        second: &'t Try,
    ) -> (&'t Try, Result<Got, Reason>) {
        let mut two = pin!(self.bounded_try(second));
        let either = poll_fn(|cx| match one.as_mut().poll(cx) {
            Poll::Ready(outcome) => Poll::Ready((first, second, outcome)),
            Poll::Pending => two.as_mut().poll(cx).map(|outcome| (second, first, outcome)),
        });
        let (ended, other, outcome) = either.await;
        self.ended(ended, &outcome);
        if self.is_good(&outcome) {
            self.lost(other);
            self.won(ended, second);
            return (ended, outcome);
        }
        if outcome.is_err() {
            // One of the two places is free again; an answer that is still there has its connection.
            second.permit.take();
        }
        let later = if ptr::eq(other, second) { two.await } else { one.await };
        self.ended(other, &later);
        if later.is_err() && outcome.is_ok() {
            return (ended, outcome);
        }
        self.give_up(outcome);
        if self.is_good(&later) {
            self.won(other, second);
        }
        (other, later)
    }

    fn won(&self, by: &Try, second: &Try) {
        if ptr::eq(by, second) {
            self.shard().hedges_won.increment();
        }
    }

    /// Whether an outcome is worth giving up the other try for.
    fn is_good(&self, outcome: &Result<Got, Reason>) -> bool {
        let brought = brought(outcome, self.call);
        let failed = match brought {
            Brought::Response { status, grpc } => reply::is_failure(status, grpc),
            Brought::Nothing { .. } => true,
        };
        !failed && self.wanted(brought).is_none()
    }

    /// Gives a try up whose twin was faster. Its breakers hear nothing of it; that it took so long is known of its endpoint.
    fn lost(&self, one: &Try) {
        drop(one.admitted.take());
        self.call.tell(|| Step::GivenUp(one.number));
        let (at, outcome) = (clock::now(), AttemptOutcome::Cancelled);
        let lost = Ended { at, outcome, reason: None, status: None, grpc_status: None, connection: None, errno: None };
        self.enter(one, lost);
    }

    fn shard(&self) -> &Shard {
        self.call.callee.metrics.shard(self.call.link.worker.id)
    }
}
