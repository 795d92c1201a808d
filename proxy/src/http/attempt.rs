//! One try: with a clock, a fault, a connection and a place at an endpoint of its own.
//!
//! Whatever a try changes is its own, so that another may be under way beside it (see [`hedge`](super::hedge)).

use std::{
    cell::Cell,
    net::SocketAddr,
    pin::{Pin, pin},
    rc::Rc,
    time::Duration,
};

use firebreak_crds::spec::{Position, defaults};
use http::HeaderMap;
use tokio::time::{Instant, timeout_at};

use super::{
    deadline,
    faults::Struck,
    lineage::{self, FIREBREAK_ATTEMPT},
    pipeline::Sending,
    present::Field,
    send_body::Activity,
};
use crate::{
    clock,
    policy::{bulkhead::Permit, fault::Injected, shadow::Step, timeout::End},
    snapshot::Admitted,
    telemetry::metrics::Direction,
    upstream::send::{Answer, Outgoing, Target, Used},
    verdict::Reason,
};

/// What a try brought instead of a failure.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "answers are the rule; a box would cost each of them an allocation")]
pub(super) enum Got {
    /// The callee's answer.
    Answer(Answer),
    /// The answer of an injected fault.
    Injected(Injected),
}

/// A try that is under way, with all that is its own while another may be under way beside it.
pub(super) struct Try {
    pub(super) number: u32,
    pub(super) began: Instant,
    pub(super) address: SocketAddr,
    /// When it must have its response.
    end: Option<End>,
    pub(super) admitted: Cell<Admitted>,
    pub(super) hit: Option<Rc<Struck>>,
    pub(super) sent: Cell<bool>,
    /// The head of a response has come.
    pub(super) answered: Cell<bool>,
    /// The connection of the try before, which this one does not take, then its own.
    pub(super) used: Cell<Option<Used>>,
    pub(super) errno: Cell<Option<i32>>,
    /// It waited for a connection that another was opening, in vain.
    pub(super) another_dialled: Cell<bool>,
    /// Its place in the bulkhead, where it does not have that of the call.
    pub(super) permit: Cell<Option<Permit>>,
}

impl Try {
    /// The head of a response has come, and how the call ended has not. A wait for that is not the callee's time.
    fn awaits_status(&self) {
        let mut admitted = self.admitted.take();
        admitted.answered(clock::now());
        self.admitted.set(admitted);
    }
}

impl Sending<'_> {
    /// Begins a try.
    pub(super) fn begin(&self, admitted: Admitted, used: Option<Used>, permit: Option<Permit>) -> Try {
        let now = clock::now();
        if let Some(activity) = self.activity {
            // What came before, a wait in the bulkhead or a pause, was not the callee's silence.
            activity.set(now);
        }
        let address = admitted.way.unwrap_or(self.call.link.destination);
        let number = self.call.tries.borrow_mut().begin(address, permit.is_some(), now);
        self.call.tell(|| Step::Began { number, endpoint: self.call.callee.behind(address) });
        let faulty = !self.call.callee.faults.is_empty() && self.call.first_try.get().is_none();
        let hit = if faulty { self.call.draw(&self.head.borrow(), Position::Attempt, number, now) } else { None };
        Try {
            number,
            began: now,
            address,
            end: self.plan.clocks.attempt_end(now, self.call.request_end),
            admitted: Cell::new(admitted),
            hit,
            sent: Cell::new(false),
            answered: Cell::new(false),
            used: Cell::new(used),
            errno: Cell::default(),
            another_dialled: Cell::default(),
            permit: Cell::new(permit),
        }
    }

    /// Makes a try, until its end at most.
    pub(super) async fn bounded_try(&self, one: &Try) -> Result<Got, Reason> {
        let idle = self.activity.cloned().zip(self.plan.clocks.idle);
        let outcome = within(one.end, idle, pin!(self.one_try(one))).await;
        if outcome.as_ref().is_err_and(|reason| reason.is_clock())
            && let Some(used) = one.used.take()
        {
            used.timed_out(&self.call.link.worker);
            one.used.set(Some(used));
        }
        outcome
    }

    /// Says in the request's head which try this is, and what is left of the request's time.
    fn tell_callee(&self, number: u32, headers: &mut HeaderMap) {
        self.call.tell_trace(number, headers);
        if self.call.link.direction == Direction::Outbound {
            // What the application copied from a request of its own caller does not count.
            let labels = if self.call.on_behalf < 2 { &self.plan.labels[..] } else { &[] };
            let label = labels.get(number as usize - 1).cloned();
            let label = label.or_else(|| lineage::unrepeated(self.call.on_behalf));
            match label {
                Some(label) => drop(headers.insert(FIREBREAK_ATTEMPT, label)),
                None if self.call.present.has(Field::Attempt) => drop(headers.remove(FIREBREAK_ATTEMPT)),
                None => {}
            }
        }
        if let Some(left) = self.call.time_left(clock::now()) {
            let envoys = self.call.present.has(Field::EnvoyTimeout);
            deadline::tell(headers, self.call.grpc, envoys, left, &self.call.link.worker.last_told);
        }
    }

    async fn one_try(&self, one: &Try) -> Result<Got, Reason> {
        if let Some(reason) = self.call.first_try.take() {
            return Err(reason);
        }
        if let Some(struck) = &one.hit
            && let Some(end) = struck.suffer().await
        {
            return end.map(Got::Injected);
        }
        one.sent.set(true);
        let tell = |headers: &mut HeaderMap| self.tell_callee(one.number, headers);
        let interim = |head| self.call.link.say(head);
        let outgoing =
            Outgoing { head: self.head, spelling: self.spelling, source: self.source, tell: &tell, interim: &interim };
        let callee = &*self.call.callee;
        let worker = &*self.call.link.worker;
        let (address, end, clocks, used, errno) = (one.address, one.end, self.plan.clocks, &one.used, &one.errno);
        let another_dialled = &one.another_dialled;
        let target = Target { worker, callee, address, clocks, used, end, another_dialled, errno };
        let mut answer = target.exchange(&outgoing).await?;
        one.answered.set(true);
        if self.may_end_in_trailers(&answer) {
            one.awaits_status();
            self.call.tell(|| Step::Answered(one.number));
            let wait = clock::now() + defaults::TRAILERS_WAIT;
            answer.look_ahead(end.map_or(wait, |end| end.at.min(wait))).await?;
        }
        Ok(Got::Answer(answer))
    }

    /// Whether it is worth a wait to see if a gRPC call, of which only the head has come, has failed without a message. A
    /// caller that is still sending may need the head to go on.
    fn may_end_in_trailers(&self, answer: &Answer) -> bool {
        self.call.grpc
            && self.plan.retries.as_ref().is_some_and(|retries| {
                retries.reads_grpc() && self.call.attempts() <= retries.max && self.call.on_behalf < 2
            })
            && self.source.replayable()
            && answer.upload.is_done()
            && self.call.grpc_status(answer).is_none()
    }
}

/// Runs `work` until the try's end, or until nothing has moved for the idle time.
async fn within<T>(
    end: Option<End>,
    idle: Option<(Activity, Duration)>,
    mut work: Pin<&mut impl Future<Output = Result<T, Reason>>>,
) -> Result<T, Reason> {
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
