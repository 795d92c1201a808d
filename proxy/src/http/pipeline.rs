//! The one function: everything that happens to a request, in order.
//!
//! ```text
//! call (first byte, callee, ids) → plan (route) → fault above the policy → the application's limit (inbound) → bulkhead
//!  → tries under one deadline { breaker → endpoint and its breaker → fault → connection → exchange → outcome
//!                               (slow? → another beside it, the first good one wins: see hedge)
//!                               → wanted again? → budget → pause → budget }
//!  → reply, whose body holds the call until its last byte → verdict → metrics, log
//! ```
//!
//! It is written out instead of being composed of layers: the order is the product, and a reader finds it here.

use std::{
    cell::{Cell, RefCell},
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use http::{Method, Request, Version, request::Parts};
use jiff::Timestamp;
use tokio::time::sleep;

use super::{
    attempt::{Got, Try},
    call::Call,
    headers::{self, is_upgrade, prepare_request},
    lineage,
    present::{Field, Present},
    reply::{self, Reply},
    send_body::{Activity, Source},
    serve::Link,
    tries::Ended,
    upgrade,
};
use crate::{
    clock,
    h1::{Incoming, MAX_HEAD, Spelling},
    net::client_stream::ClientStream,
    policy::{
        breaker::Outcome,
        bulkhead::Need,
        concurrency::Limit,
        retry::{Again, Brought, Prospect, Retries, Told},
        shadow::Verdict,
    },
    snapshot::{Admitted, NotAdmitted, Plan},
    telemetry::metrics::Direction,
    upstream::send::{Answer, Used},
    verdict::{AttemptOutcome, Fate, Reason},
};

/// A request on its way through the tries.
pub(super) struct Sending<'a> {
    pub(super) call: &'a mut Call,
    pub(super) plan: &'a Plan,
    /// As the try that was sent last has it.
    pub(super) head: &'a RefCell<Parts>,
    pub(super) spelling: &'a Spelling,
    pub(super) source: &'a Source,
    pub(super) activity: Option<&'a Activity>,
    pub(super) last_way: Cell<Option<SocketAddr>>,
    last_connection: Cell<Option<Used>>,
    /// Whether a second try may be sent beside a slow one: not if the request asks for another protocol, and once at most.
    pub(super) hedgeable: Cell<bool>,
}

/// Serves one request, whose head is spelled as `spelling` says.
pub async fn handle(request: Request<Incoming<ClientStream>>, spelling: Spelling, link: Rc<Link>) -> Reply {
    let (mut head, body) = request.into_parts();
    let present = Present::of(&head.headers);
    let switching = wants_upgrade(&head, present);
    // In a box: it goes from hand to hand until the last byte of the response.
    let mut call = Box::new(Call::new(link, &head, present));
    if call.link.multiplexed && headers::size(&head) > MAX_HEAD {
        return reply::failure(call, Reason::RequestHeadTooLarge);
    }
    call.begin_trace(&head.headers);
    let callee = Arc::clone(&call.callee);
    let plan = callee.plan(&head);
    let activity = plan.clocks.idle.map(|_| Rc::new(Cell::new(call.started)));
    // An idempotent request may be sent again on a new connection even without a policy (see upstream::send).
    let repeats = plan.repeats() || head.method.is_idempotent();
    let source = Source::new(body, repeats.then_some(&call.link.worker.common.replay), activity.clone());
    // In a box, so that requests without a fault are no larger for it.
    let above = if callee.faults.is_empty() { None } else { Box::pin(call.suffer_above(&head)).await };
    call.set_end(plan.clocks.request_end(call.admitted_at), &head.headers);
    match above {
        Some(Err(reason)) => return reply::failure(call, reason),
        Some(Ok(answer)) => return reply::injected(call, answer),
        None => {}
    }
    call.follow(&head, switching);
    let limit = call.limit(&head);
    prepare_request(&mut head, present, switching, call.link.forwarded_for.as_ref(), call.link.destination);
    let (method, version, head) = (head.method.clone(), head.version, RefCell::new(head));

    let outcome = match admit(&mut call, version, limit.as_ref()).await {
        Err(reason) => Err(reason),
        Ok(()) => {
            let (activity, last_way) = (activity.as_ref(), Cell::default());
            let (last_connection, hedgeable) = (Cell::default(), Cell::new(!switching));
            let (call, head, spelling, source) = (&mut call, &head, &spelling, &source);
            Sending { call, plan, head, spelling, source, activity, last_way, last_connection, hedgeable }.run().await
        }
    };
    match outcome {
        Err(reason) => reply::failure(call, reason),
        Ok(Got::Injected(answer)) => reply::injected(call, answer),
        Ok(Got::Answer(answer)) => {
            call.measure(&answer);
            if switching && upgrade::agreed(&answer, &method) {
                upgrade::agreement(call, plan.clocks, answer)
            } else {
                reply::relayed(call, plan.clocks, activity, answer)
            }
        }
    }
}

fn wants_upgrade(head: &Parts, present: Present) -> bool {
    head.version != Version::HTTP_2 && head.method == Method::CONNECT
        || present.has(Field::Upgrade) && head.version == Version::HTTP_11 && is_upgrade(&head.headers)
}

async fn admit(call: &mut Call, version: Version, limit: Option<&Arc<Limit>>) -> Result<(), Reason> {
    if let Some(end) = call.request_end
        && end.reason == Reason::DeadlineExceeded
        && end.at <= clock::now()
    {
        return Err(Reason::DeadlineSpent);
    }
    // What was dialled for this request has waited already.
    if let Some(reason) = call.first_try.get().filter(|reason| Fate::from(*reason).is_refusal()) {
        call.first_try.set(None);
        return Err(reason);
    }
    call.arrives();
    call.callee.take(clock::now()).map_err(|refused| {
        call.retry_after = refused.retry_after;
        refused.reason
    })?;
    if let Some(limit) = limit {
        // In a box, so that requests without a limit are no larger for it.
        Box::pin(call.take_place(limit)).await?;
    }
    let need = need(version);
    let permit = match call.callee.gate.try_acquire(need) {
        Some(permit) => Ok(permit),
        None => {
            Arc::clone(&call.callee.gate).acquire(need, call.request_end.map(|end| end.at)).await.map_err(Reason::from)
        }
    };
    call.permit = Some(permit.map_err(|reason| match call.request_end {
        Some(end) if reason == Reason::RequestTimeout && end.reason == Reason::DeadlineExceeded => {
            Reason::DeadlineSpent
        }
        _ => reason,
    })?);
    call.enters(need);
    Ok(())
}

/// What a try takes of the bulkhead.
pub(super) fn need(version: Version) -> Need {
    if version == Version::HTTP_2 { Need::Stream } else { Need::Exchange }
}

impl Sending<'_> {
    /// Makes tries until one is good enough, or no other may be made.
    async fn run(mut self) -> Result<Got, Reason> {
        let extra = self.call.callee.policy.as_ref().map(|policy| policy.extra.clone()).unwrap_or_default();
        let budget = extra.budget.as_ref().filter(|_| self.plan.repeats());
        // What is left alone here is to be left alone by those above.
        let mut admitted = self.pass_breakers().map_err(|refused| {
            self.give_up_retrying();
            self.call.retry_after = refused.retry_after;
            refused.reason
        })?;
        extra.request(self.plan, self.call.admitted_at);
        loop {
            let outcome = self.race(admitted).await;
            let Some(pause) = self.pause_before_another(&outcome) else { return outcome };
            // The budget is asked now, and again after the pause: a burst of failures passes the first check together.
            // Whoever is refused the second time still has the callee's answer to give back.
            let allowed = budget.is_none_or(|budget| budget.allows(clock::now()));
            if allowed {
                sleep(pause).await;
            }
            // The callee that has answered may have read on meanwhile, and what it took was more than is kept for another.
            if !self.source.replayable() {
                self.give_up_retrying();
                return outcome;
            }
            if !allowed || budget.is_some_and(|budget| !budget.take(clock::now())) {
                self.call.callee.metrics.shard(self.call.link.worker.id).retries_refused.increment();
                self.give_up_retrying();
                return outcome;
            }
            // Nor is that answer lost to a breaker that has opened meanwhile.
            let next = self.pass_breakers();
            let Ok(next) = next.map_err(|refused| self.call.retry_after = refused.retry_after) else {
                self.give_up_retrying();
                return outcome;
            };
            self.call.admitted = Admitted::default();
            self.give_up(outcome);
            admitted = next;
        }
    }

    /// Begins a try that has the call's own place in the bulkhead.
    pub(super) fn begin_first(&mut self, admitted: Admitted) -> Try {
        self.call.forget_strike();
        self.begin(admitted, self.last_connection.take(), None)
    }

    /// A try that is over has decided what comes next.
    pub(super) fn decide(&mut self, by: &Try) {
        self.call.admitted = by.admitted.take();
        if let Some(struck) = &by.hit {
            self.call.strike(Rc::clone(struck));
        }
        self.call.decided = by.number;
        self.last_connection.set(by.used.take());
    }

    /// Tells the breakers of a try that is over, and enters it in the books. What is to be told at the end of its answer stays
    /// with it.
    pub(super) fn ended(&self, one: &Try, outcome: &Result<Got, Reason>) {
        one.admitted.set(self.tell_breakers(one, outcome).unwrap_or_default());
        self.tell_ended(one, outcome);
        self.enter(one, ended(outcome, self.call));
        let is_late = outcome.as_ref().is_err_and(|reason| reason.is_clock());
        self.call.awaits_caller.set(is_late && self.source.awaits_caller());
    }

    /// Enters a try that is over in the books, and among the call's.
    pub(super) fn enter(&self, one: &Try, ended: Ended) {
        let used = one.used.take();
        // A try that was not sent has the connection of the one before.
        let connection = used.as_ref().filter(|_| one.sent.get()).map(Used::evidence);
        one.used.set(used);
        let ended = Ended { connection, errno: one.errno.take(), ..ended };
        self.call.callee.metrics.shard(self.call.link.worker.id).attempt(ended.outcome);
        self.call.tries.borrow_mut().ended(one.number, ended);
    }

    /// How long to wait before another try; `None` if there is not to be one.
    fn pause_before_another(&self, outcome: &Result<Got, Reason>) -> Option<Duration> {
        let told_by_layer = self.told_by_layer(outcome);
        let again = self.wanted(brought(outcome, self.call)).map(|retries| {
            let left = self.call.request_end.map(|end| end.at.saturating_duration_since(clock::now()));
            let layered = told_by_layer || self.call.on_behalf > 1;
            let (made, replayable, told) = (self.call.attempts(), self.source.replayable(), told(outcome));
            retries.again(Prospect { made, replayable, layered, told, left }, fastrand::f64())
        });
        let shard = self.call.callee.metrics.shard(self.call.link.worker.id);
        match again {
            Some(Again::After(pause)) => return Some(pause),
            Some(Again::LeftToLayers) => shard.left_to_layers.increment(),
            Some(Again::PushedBack) => shard.pushed_back.increment(),
            Some(Again::Spent) | None => {}
        }
        if again.is_some() || told_by_layer {
            self.give_up_retrying();
        }
        None
    }

    /// The policy's retries, if they want another try after what one brought.
    pub(super) fn wanted(&self, brought: Brought) -> Option<&Retries> {
        let head = self.head.borrow();
        let wants = |retries: &&Retries| retries.wants(brought, retries.repeatable(&head.method, &head.headers));
        self.plan.retries.as_ref().filter(wants)
    }

    /// Whether a layer below says that another try would not help.
    pub(super) fn told_by_layer(&self, outcome: &Result<Got, Reason>) -> bool {
        matches!(outcome, Ok(Got::Answer(answer)) if self.is_final(answer))
    }

    /// Whether the callee's proxy says in a failed answer that another try would not help. An application is not asked.
    fn is_final(&self, answer: &Answer) -> bool {
        self.call.link.direction == Direction::Outbound
            && reply::is_failure(answer.response.status(), self.call.grpc_status(answer))
            && lineage::is_final(answer.response.headers())
    }

    /// Those above are to know that trying again has not helped.
    fn give_up_retrying(&self) {
        if self.call.link.direction == Direction::Inbound {
            return;
        }
        self.call.link.worker.common.lineage.failed(&self.head.borrow().headers);
    }

    /// Lets go of an answer that will not be used. Its connection is not used for the next try.
    pub(super) fn give_up(&self, outcome: Result<Got, Reason>) {
        if let Ok(Got::Answer(Answer { response, connection, upload, .. })) = outcome
            && upload.is_done()
        {
            reply::discard(self.call, response, connection);
        }
    }

    /// Asks the breakers, and for an endpoint.
    pub(super) fn pass_breakers(&self) -> Result<Admitted, NotAdmitted> {
        if self.call.first_try.get().is_some() {
            // What was dialled for this request has asked already.
            return Ok(Admitted::default());
        }
        let now = clock::now();
        let end = self.plan.clocks.probe_end(self.call.admitted_at, now);
        let key = self.call.callee.hash_key(&self.head.borrow().headers);
        let admitted = self.call.callee.admit(key, self.last_way.get(), now, end)?;
        self.last_way.set(admitted.way);
        Ok(admitted)
    }

    /// Tells the breakers what became of a try.
    fn tell_breakers(&self, one: &Try, outcome: &Result<Got, Reason>) -> Option<Admitted> {
        let mut admitted = one.admitted.take();
        match self.verdict(one, outcome) {
            Verdict::Told(verdict) => {
                admitted.ended(verdict, clock::now());
                outcome.is_ok().then_some(admitted)
            }
            Verdict::Later => {
                admitted.answered(clock::now());
                Some(admitted)
            }
            Verdict::Nothing => None,
        }
    }

    /// What breakers hear of a try that is over. The status of a gRPC call comes at its end, and is told there.
    pub(super) fn verdict(&self, one: &Try, outcome: &Result<Got, Reason>) -> Verdict {
        if let (Ok(Got::Answer(answer)), true) = (outcome, self.call.grpc)
            && self.call.grpc_status(answer).is_none()
            && answer.response.status().is_success()
        {
            return Verdict::Later;
        }
        match brought(outcome, self.call) {
            Brought::Response { status, grpc } if reply::is_failure(status, grpc) => Verdict::Told(Outcome::Failed),
            Brought::Response { .. } => Verdict::Told(Outcome::Passed),
            // It is an outcome once, of the request that dialled.
            Brought::Nothing { .. } if one.another_dialled.get() => Verdict::Nothing,
            // The callee had nothing to answer yet.
            Brought::Nothing { reason, .. } if reason.is_clock() && self.source.awaits_caller() => Verdict::Nothing,
            // A try that the request's end cut short says nothing, whether a wait in the bulkhead, a pause or the caller's own
            // choice left it so little; one that had nearly all of its time says what its own end says.
            Brought::Nothing { reason: Reason::RequestTimeout | Reason::DeadlineExceeded, .. }
                if !self.plan.clocks.had_its_time(one.began.elapsed()) =>
            {
                Verdict::Nothing
            }
            Brought::Nothing { reason, .. } if reason.is_outcome() => Verdict::Told(Outcome::Failed),
            Brought::Nothing { .. } => Verdict::Nothing,
        }
    }
}

/// What an answer says about another try.
pub(super) fn told(outcome: &Result<Got, Reason>) -> Told {
    match outcome {
        Ok(Got::Answer(answer)) => Told::by(answer.ending(), Timestamp::now()),
        _ => Told::Nothing,
    }
}

pub(super) fn brought(outcome: &Result<Got, Reason>, call: &Call) -> Brought {
    match outcome {
        Err(reason) => Brought::Nothing { reason: *reason, grpc: call.grpc },
        Ok(Got::Answer(answer)) => {
            let (status, grpc) = (answer.response.status(), call.grpc_status(answer));
            match reply::answer_failed(call, answer) {
                // The callee's proxy answered, and its application has not seen the request: as if nothing had come.
                Some(reason) if reason.is_unsent() => Brought::Nothing { reason, grpc: call.grpc },
                _ => Brought::Response { status, grpc },
            }
        }
        Ok(Got::Injected(answer)) => {
            let (status, grpc) = reply::injected_status(*answer, call.grpc);
            Brought::Response { status, grpc }
        }
    }
}

fn attempt_outcome(outcome: &Result<Got, Reason>, call: &Call) -> AttemptOutcome {
    match (outcome, brought(outcome, call)) {
        (Ok(Got::Injected(_)), _) => AttemptOutcome::Injected,
        (_, Brought::Nothing { reason, .. }) => AttemptOutcome::from(reason),
        (_, Brought::Response { status, grpc }) if reply::is_failure(status, grpc) => AttemptOutcome::Error,
        _ => AttemptOutcome::Answered,
    }
}

fn ended(outcome: &Result<Got, Reason>, call: &Call) -> Ended {
    let (reason, status, grpc_status) = match outcome {
        Err(reason) => (Some(*reason), None, None),
        Ok(Got::Answer(answer)) => {
            (reply::answer_failed(call, answer), Some(answer.response.status()), call.grpc_status(answer))
        }
        Ok(Got::Injected(answer)) => {
            let (status, grpc) = reply::injected_status(*answer, call.grpc);
            (Some(Reason::FaultAbort), Some(status), grpc)
        }
    };
    Ended {
        at: clock::now(),
        outcome: attempt_outcome(outcome, call),
        reason,
        status,
        grpc_status,
        connection: None,
        errno: None,
    }
}
