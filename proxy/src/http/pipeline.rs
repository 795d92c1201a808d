//! The one function: everything that happens to a request, in order.
//!
//! ```text
//! call (first byte, callee, ids) → plan (route) → fault above the policy → bulkhead
//!  → tries under one deadline { breaker → endpoint and its breaker → fault → connection → exchange → outcome
//!                               → wanted again? → budget → pause → budget }
//!  → reply, whose body holds the call until its last byte → verdict → metrics, log
//! ```
//!
//! It is written out instead of being composed of layers: the order is the product, and a reader finds it here.

use std::{cell::Cell, net::SocketAddr, pin::pin, rc::Rc, sync::Arc, time::Duration};

use firebreak_crds::spec::{Position, defaults};
use http::{Method, Request, Response, Version, request::Parts};
use hyper::{body::Incoming, upgrade::OnUpgrade};
use jiff::Timestamp;
use tokio::time::{Instant, sleep, timeout_at};

use super::{
    call::Call,
    deadline,
    headers::{self, is_upgrade, prepare_request},
    lineage::{self, FIREBREAK_ATTEMPT},
    reply,
    reply_body::ReplyBody,
    send_body::{Activity, Source},
    serve::{Link, MAX_HEAD},
    tries::Ended,
    upgrade,
};
use crate::{
    policy::{
        breaker::Outcome,
        bulkhead::Need,
        fault::Injected,
        retry::{Brought, Retries, Told},
        timeout::End,
    },
    snapshot::{Admitted, Plan},
    telemetry::metrics::Direction,
    upstream::send::{Answer, Target, Used},
    verdict::{AttemptOutcome, Fate, Reason},
};

/// What a try brought instead of a failure.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "answers are the rule; a box would cost each of them an allocation")]
pub enum Got {
    /// The callee's answer.
    Answer(Answer),
    /// The answer of an injected fault.
    Injected(Injected),
}

/// A request on its way through the tries.
struct Sending<'a> {
    call: &'a mut Call,
    plan: &'a Plan,
    head: &'a mut Parts,
    source: &'a Source,
    activity: Option<&'a Activity>,
    last_endpoint: Option<SocketAddr>,
    last_connection: Cell<Option<Used>>,
    errno: Cell<Option<i32>>,
}

/// Serves one request.
pub async fn handle(mut request: Request<Incoming>, link: Rc<Link>) -> Response<ReplyBody> {
    let switching = take_upgrade(&mut request);
    let (mut head, body) = request.into_parts();
    let mut call = Call::new(link, &head);
    if call.link.multiplexed && headers::size(&head) > MAX_HEAD {
        return reply::failure(call, Reason::RequestHeadTooLarge);
    }
    call.begin_trace(&head.headers);
    let callee = Arc::clone(&call.callee);
    let plan = callee.plan(&head);
    // In a box, so that requests without a fault are no larger for it.
    let above = if callee.faults.is_empty() { None } else { Box::pin(call.suffer_above(&head)).await };
    call.set_end(plan.clocks.request_end(call.admitted_at), &head.headers);
    match above {
        Some(Err(reason)) => return reply::failure(call, reason),
        Some(Ok(answer)) => return reply::injected(call, answer),
        None => {}
    }
    prepare_request(&mut head, switching.is_some(), call.link.forwarded_for.as_ref(), call.link.destination);
    let activity = plan.clocks.idle.map(|_| Rc::new(Cell::new(call.started)));
    // An idempotent request may be sent again on a new connection even without a policy (see upstream::send).
    let source = Source::new(body, &call.link, plan.retries.is_some() || head.method.is_idempotent(), activity.clone());

    let outcome = match admit(&mut call, head.version).await {
        Err(reason) => Err(reason),
        Ok(()) => {
            let (activity, last_endpoint) = (activity.as_ref(), None);
            let (last_connection, errno) = (Cell::new(None), Cell::new(None));
            let (call, head, source) = (&mut call, &mut head, &source);
            Sending { call, plan, head, source, activity, last_endpoint, last_connection, errno }.run().await
        }
    };
    match outcome {
        Err(reason) => reply::failure(call, reason),
        Ok(Got::Injected(answer)) => reply::injected(call, answer),
        Ok(Got::Answer(answer)) => match switching.filter(|_| upgrade::agreed(&answer, &head.method)) {
            Some(switching) => upgrade::switch(call, plan.clocks, switching, answer),
            None => reply::relayed(call, plan.clocks, activity, source.upload(), answer),
        },
    }
}

fn take_upgrade(request: &mut Request<Incoming>) -> Option<OnUpgrade> {
    let wanted =
        request.version() == Version::HTTP_11 && (request.method() == Method::CONNECT || is_upgrade(request.headers()));
    wanted.then(|| hyper::upgrade::on(request))
}

async fn admit(call: &mut Call, version: Version) -> Result<(), Reason> {
    if let Some(end) = call.request_end
        && end.reason == Reason::DeadlineExceeded
        && end.at <= Instant::now()
    {
        return Err(Reason::DeadlineSpent);
    }
    // What was dialled for this request has waited already.
    if let Some(reason) = call.link.first_try.get().filter(|reason| Fate::from(*reason).is_refusal()) {
        call.link.first_try.set(None);
        return Err(reason);
    }
    call.callee.take(Instant::now()).map_err(|refused| {
        call.retry_after = refused.retry_after;
        refused.reason
    })?;
    let need = if version == Version::HTTP_2 { Need::Stream } else { Need::Exchange };
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
    Ok(())
}

impl Sending<'_> {
    /// Makes tries until one is good enough, or no other may be made.
    async fn run(mut self) -> Result<Got, Reason> {
        let budget = self.call.callee.policy.as_ref().and_then(|policy| policy.budget.clone());
        if let Some(budget) = self.plan.retries.as_ref().and(budget.as_ref()) {
            budget.request(self.call.started);
        }
        // What is left alone here is to be left alone by those above.
        let mut admitted = self.pass_breakers().inspect_err(|_| self.give_up_retrying())?;
        loop {
            self.call.attempts += 1;
            let outcome = self.bounded_try(admitted).await;
            self.enter(&outcome);
            let Some(pause) = self.pause_before_another(&outcome) else { return outcome };
            // The budget is asked now, and again after the pause: a burst of failures passes the first check together.
            // Whoever is refused the second time still has the callee's answer to give back.
            let allowed = budget.as_ref().is_none_or(|budget| budget.allows(Instant::now()));
            if allowed {
                sleep(pause).await;
            }
            if !allowed || budget.as_ref().is_some_and(|budget| !budget.take(Instant::now())) {
                self.call.callee.metrics.shard(self.call.link.worker.id).retries_refused.increment();
                self.give_up_retrying();
                return outcome;
            }
            // Nor is that answer lost to a breaker that has opened meanwhile.
            let Ok(next) = self.pass_breakers() else {
                self.give_up_retrying();
                return outcome;
            };
            self.call.admitted = Admitted::default();
            self.give_up(outcome);
            admitted = next;
        }
    }

    /// Enters a try that is over in the books, and among the call's.
    fn enter(&mut self, outcome: &Result<Got, Reason>) {
        let used = self.last_connection.take();
        // A try that was not sent leaves the connection of the one before.
        let connection = used.as_ref().filter(|_| self.call.tries.was_sent()).map(Used::evidence);
        self.last_connection.set(used);
        let ended = Ended { connection, errno: self.errno.take(), ..ended(outcome, self.call) };
        self.call.callee.metrics.shard(self.call.link.worker.id).attempt(ended.outcome);
        self.call.tries.ended(ended);
    }

    /// How long to wait before another try; `None` if there is not to be one.
    fn pause_before_another(&self, outcome: &Result<Got, Reason>) -> Option<Duration> {
        let answer = if let Ok(Got::Answer(answer)) = outcome { Some(answer) } else { None };
        let told_by_layer = answer.is_some_and(|answer| self.is_final(answer));
        let retries = self.plan.retries.as_ref().filter(|retries| {
            let repeatable = retries.repeatable(&self.head.method, &self.head.headers);
            retries.wants(brought(outcome, self.call), repeatable)
        });
        let pause = retries.and_then(|retries| self.pause(retries, outcome, told_by_layer));
        if pause.is_none() && (retries.is_some() || told_by_layer) {
            self.give_up_retrying();
        }
        pause
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
        self.call.link.worker.common.lineage.failed(&self.head.headers);
    }

    fn pause(&self, retries: &Retries, outcome: &Result<Got, Reason>, told_by_layer: bool) -> Option<Duration> {
        if self.call.attempts > retries.max || !self.source.replayable() {
            return None;
        }
        if told_by_layer || self.call.on_behalf > 1 {
            self.call.callee.metrics.shard(self.call.link.worker.id).left_to_layers.increment();
            return None;
        }
        let own = retries.pause(self.call.attempts, fastrand::f64());
        let told = match outcome {
            Ok(Got::Answer(answer)) => Told::by(answer.ending(), Timestamp::now()),
            _ => Told::Nothing,
        };
        let pause = told.pause(own).filter(|pause| match self.call.request_end {
            // Whatever a callee asks for: no sum that could overflow.
            Some(end) => *pause < end.at.saturating_duration_since(Instant::now()),
            None => *pause <= defaults::RETRY_AFTER_MAX.max(own),
        });
        if pause.is_none() && told != Told::Nothing {
            self.call.callee.metrics.shard(self.call.link.worker.id).pushed_back.increment();
        }
        pause
    }

    /// Lets go of an answer that will not be used. Its connection is not used for the next try.
    fn give_up(&self, outcome: Result<Got, Reason>) {
        if let Ok(Got::Answer(Answer { response, connection, .. })) = outcome
            && self.source.upload().is_done()
        {
            reply::discard(self.call, response, connection);
        }
    }

    /// Asks the breakers, and for an endpoint.
    fn pass_breakers(&mut self) -> Result<Admitted, Reason> {
        if self.call.link.first_try.get().is_some() {
            // What was dialled for this request has asked already.
            return Ok(Admitted::default());
        }
        let now = Instant::now();
        // A probe may take as long as the policy says, whatever the caller's own deadline.
        let by_policy = self.plan.clocks.request_end(self.call.admitted_at);
        let end = self.plan.clocks.attempt_end(now, by_policy).map(|end| end.at);
        let key = self.call.callee.hash_key(&self.head.headers);
        let admitted = self.call.callee.admit(key, self.last_endpoint, now, end).map_err(|refused| {
            self.call.retry_after = refused.retry_after;
            refused.reason
        })?;
        self.last_endpoint = admitted.endpoint;
        Ok(admitted)
    }

    /// Tells the breakers what became of a try. The status of a gRPC call comes at its end, and is told there.
    fn tell_breakers(&mut self, mut admitted: Admitted, began: Instant, outcome: &Result<Got, Reason>) {
        if let (Ok(Got::Answer(answer)), true) = (outcome, self.call.grpc)
            && self.call.grpc_status(answer).is_none()
            && answer.response.status().is_success()
        {
            admitted.answered(Instant::now());
            self.call.admitted = admitted;
            return;
        }
        // A try that the request's end cut short says nothing; one that had nearly all of its time says what its own end says.
        let cut = self.plan.clocks.attempt.is_some_and(|attempt| began.elapsed() < attempt.mul_f64(0.9));
        let verdict = match brought(outcome, self.call) {
            Brought::Response { status, grpc } if reply::is_failure(status, grpc) => Outcome::Failed,
            Brought::Response { .. } => Outcome::Passed,
            Brought::Nothing { reason: Reason::RequestTimeout, .. } if cut => return,
            // How long that is was the caller's choice, unless it was nearly as long as the policy gives.
            Brought::Nothing { reason: Reason::DeadlineExceeded, .. } if !self.had_its_time(began) => return,
            Brought::Nothing { reason, .. } if reason.is_outcome() => Outcome::Failed,
            Brought::Nothing { .. } => return,
        };
        admitted.ended(verdict, Instant::now());
        if outcome.is_ok() {
            self.call.admitted = admitted;
        }
    }

    /// Whether a try that began at `began` has had nearly all of the time that the policy gives one.
    fn had_its_time(&self, began: Instant) -> bool {
        let clocks = self.plan.clocks;
        clocks.attempt.or(clocks.request).is_some_and(|time| began.elapsed() >= time.mul_f64(0.9))
    }

    async fn bounded_try(&mut self, admitted: Admitted) -> Result<Got, Reason> {
        let now = Instant::now();
        let end = self.plan.clocks.attempt_end(now, self.call.request_end);
        if let Some(activity) = self.activity {
            // What came before, a wait in the bulkhead or a pause, was not the callee's silence.
            activity.set(now);
        }
        let idle = self.activity.cloned().zip(self.plan.clocks.idle);
        let address = admitted.endpoint.unwrap_or(self.call.link.destination);
        self.call.tries.begin(address, now);
        let outcome = within(end, idle, self.one_try(address, now, end)).await;
        self.tell_breakers(admitted, now, &outcome);
        if outcome.as_ref().is_err_and(|reason| reason.is_clock())
            && let Some(used) = self.last_connection.take()
        {
            used.timed_out(&self.call.link.worker);
            self.last_connection.set(Some(used));
        }
        outcome
    }

    /// Says in the request's head which try this is, and what is left of the request's time.
    fn tell_callee(&mut self) {
        let headers = &mut self.head.headers;
        self.call.tell_trace(headers);
        if self.call.link.direction == Direction::Outbound {
            // What the application copied from a request of its own caller does not count.
            headers.remove(FIREBREAK_ATTEMPT);
            let tries = self.plan.retries.as_ref().filter(|_| self.call.on_behalf < 2);
            let label = tries.and_then(|tries| tries.labels.get(self.call.attempts as usize - 1).cloned());
            let label = label.or_else(|| lineage::unrepeated(self.call.on_behalf));
            headers.extend(label.map(|label| (FIREBREAK_ATTEMPT, label)));
        }
        if let Some(left) = self.call.time_left(Instant::now()) {
            deadline::tell(headers, self.call.grpc, left);
        }
    }

    async fn one_try(&mut self, address: SocketAddr, now: Instant, end: Option<End>) -> Result<Got, Reason> {
        if let Some(reason) = self.call.link.first_try.take() {
            return Err(reason);
        }
        if !self.call.callee.faults.is_empty() {
            let hit = self.call.draw(self.head, Position::Attempt, now);
            if let Some(end) = self.call.suffer(hit).await {
                return end.map(Got::Injected);
            }
        }
        self.call.tries.sent();
        self.tell_callee();
        let callee = &*self.call.callee;
        let worker = &*self.call.link.worker;
        let (clocks, used, errno) = (self.plan.clocks, &self.last_connection, &self.errno);
        let target = Target { worker, callee, address, clocks, used, end, errno };
        let mut answer = target.exchange(self.head, self.source).await?;
        if self.may_end_in_trailers(&answer) {
            let wait = Instant::now() + defaults::TRAILERS_WAIT;
            answer.look_ahead(end.map_or(wait, |end| end.at.min(wait))).await?;
        }
        Ok(Got::Answer(answer))
    }

    /// Whether it is worth a wait to see if a gRPC call, of which only the head has come, has failed without a message. A
    /// caller that is still sending may need the head to go on.
    fn may_end_in_trailers(&self, answer: &Answer) -> bool {
        self.call.grpc
            && self.plan.retries.as_ref().is_some_and(|retries| {
                retries.reads_grpc() && self.call.attempts <= retries.max && self.call.on_behalf < 2
            })
            && self.source.replayable()
            && self.source.upload().is_done()
            && self.call.grpc_status(answer).is_none()
    }
}

/// Runs `work` until the try's end, or until nothing has moved for the idle time.
async fn within<T>(
    end: Option<End>,
    idle: Option<(Activity, Duration)>,
    work: impl Future<Output = Result<T, Reason>>,
) -> Result<T, Reason> {
    let mut work = pin!(work);
    loop {
        let silent = idle.as_ref().map(|(last, idle)| End { at: last.get() + *idle, reason: Reason::IdleTimeout });
        let Some(next) = [end, silent].into_iter().flatten().min_by_key(|end| end.at) else { return work.await };
        match timeout_at(next.at, work.as_mut()).await {
            Ok(result) => return result,
            // Bytes have moved since; the silence begins anew.
            Err(_)
                if idle
                    .as_ref()
                    .is_some_and(|(last, idle)| next.reason == Reason::IdleTimeout && last.get() + *idle > next.at) => {
            }
            Err(_) => return Err(next.reason),
        }
    }
}

fn brought(outcome: &Result<Got, Reason>, call: &Call) -> Brought {
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
        at: Instant::now(),
        outcome: attempt_outcome(outcome, call),
        reason,
        status,
        grpc_status,
        connection: None,
        errno: None,
    }
}
