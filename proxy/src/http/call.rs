//! One request, from its first byte to its verdict.
//!
//! A call is entered in the books exactly once: when it is told its end, or, if nobody tells it, when it is dropped, which
//! means that the caller went away. So the fates of a callee always add up to its requests.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use firebreak_crds::spec::Position;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, request::Parts};
use jiff::Timestamp;
use tokio::time::Instant;

use super::{
    deadline,
    faults::Struck,
    grpc,
    headers::{TRACEPARENT, X_REQUEST_ID},
    lineage::{Entered, FIREBREAK_RETRY},
    present::{Field, Present},
    serve::Link,
    tries::Tries,
};
use crate::{
    clock,
    policy::{
        breaker::Outcome,
        bulkhead::Permit,
        concurrency::Place,
        fault::{FaultSet, Spoil},
        shadow::Observed,
        timeout::{End, nearest},
    },
    snapshot::{Admitted, Callee},
    telemetry::{
        access_log::{self, Record, millis},
        exemplar::{self, Exemplar, Name},
        metrics::Direction,
        trace::Trace,
    },
    upstream::send::Answer,
    verdict::{
        Domain, Fate, Reason,
        proxy_status::{self, Member},
    },
};

/// How much longer than its caller the proxy beside the callee waits: the caller's own proxy is to say the last word, in its own
/// terms, and takes the request back when it does.
const LAST_WORD: Duration = Duration::from_millis(250);

/// A request that is under way.
#[derive(Debug)]
pub struct Call {
    /// The connection it came by.
    pub link: Rc<Link>,
    /// Whom it is for, as the config was when it began.
    pub callee: Arc<Callee>,
    /// Its first byte.
    pub started: Instant,
    /// When the policy began to hold for it: then too, or when it had suffered a fault above the policy.
    pub admitted_at: Instant,
    /// When it must be over.
    pub request_end: Option<End>,
    /// Which fields it came with.
    pub present: Present,
    /// Whether it is gRPC.
    pub grpc: bool,
    /// Inbound: keeps it known while it is under way.
    pub entered: Option<Entered>,
    /// Outbound: the try of the caller's on whose behalf it is, 0 where nothing is known. A second one's calls are not retried.
    pub on_behalf: u32,
    /// The tries made so far. Two of them may be under way at once.
    pub tries: RefCell<Tries>,
    /// Number of the try that decided, 0 while none has.
    pub decided: u32,
    /// The FaultSpec that hit that try, or the request before its first.
    pub fault: Option<Arc<FaultSet>>,
    /// All that it does, and its place among the requests that are hit at once.
    pub struck: Option<Rc<Struck>>,
    /// What it does to the answer's body.
    pub spoil: Option<Box<Spoil>>,
    /// Whether a clock of the last try ran out while its callee waited for the rest of the request.
    pub awaits_caller: Cell<bool>,
    /// Why there is no connection for its first try, where one was dialled for it before it came.
    pub first_try: Cell<Option<Reason>>,
    /// What the callee's application called in vain, as far as is known.
    pub dependency: Option<Box<str>>,
    /// Outbound: the FaultSpec by which the callee's own proxy says that it answered.
    pub told_fault: Option<Box<str>>,
    /// Its trace, if it is sampled.
    pub trace: Option<Box<Trace>>,
    /// What the policy that is observed makes of it.
    pub observed: Option<Box<Observed>>,
    /// Its place in the bulkhead.
    pub permit: Option<Permit>,
    /// Inbound: its place among what the application works on, where that is limited.
    pub place: Option<Box<Place>>,
    /// The last try's endpoint, which has to do with it until it ends, and breakers that are to be told then.
    pub admitted: Admitted,
    /// After which time a caller that was refused may ask again.
    pub retry_after: Option<Duration>,
    /// Status that the caller sees, once it is known.
    pub status: Option<StatusCode>,
    method: Method,
    uri: Uri,
    ids: [Option<HeaderValue>; 2],
    in_books: bool,
}

impl Call {
    /// A request that came by `link`.
    pub fn new(link: Rc<Link>, head: &Parts, present: Present) -> Self {
        let started = link.first_byte().unwrap_or_else(clock::now);
        link.begins();
        Self {
            callee: link.callee(),
            first_try: Cell::new(link.first_try.take()),
            link,
            started,
            admitted_at: started,
            request_end: None,
            grpc: present.has(Field::ContentType) && grpc::is_grpc(&head.headers),
            present,
            entered: None,
            on_behalf: 0,
            tries: RefCell::default(),
            decided: 0,
            fault: None,
            struck: None,
            awaits_caller: Cell::new(false),
            spoil: None,
            dependency: None,
            told_fault: None,
            trace: None,
            observed: None,
            permit: None,
            place: None,
            admitted: Admitted::default(),
            retry_after: None,
            status: None,
            method: head.method.clone(),
            uri: head.uri.clone(),
            ids: [(Field::RequestId, X_REQUEST_ID), (Field::Traceparent, TRACEPARENT)]
                .map(|(field, name)| if present.has(field) { head.headers.get(name).cloned() } else { None }),
            in_books: false,
        }
    }

    /// The gRPC status of an answer, as far as it has come.
    pub fn grpc_status(&self, answer: &Answer) -> Option<u8> {
        if self.grpc { grpc::status(answer.ending()) } else { None }
    }

    /// Sets when it must be over: by the policy, by the caller's own deadline, or by that of the request on whose behalf it is.
    pub fn set_end(&mut self, by_policy: Option<End>, headers: &HeaderMap) {
        let lineage = &self.link.worker.common.lineage;
        let told = if self.present.has(Field::Deadline) { deadline::left(headers, self.grpc) } else { None };
        let own = told.and_then(|left| self.started.checked_add(left));
        let inherited = match self.link.direction {
            Direction::Inbound => {
                // In local mode nobody knows which of the calls that come here are the application's.
                if !self.link.is_alone {
                    self.entered = lineage.enter(headers, self.started, own, self.ids[1].as_ref());
                }
                None
            }
            Direction::Outbound if !self.present.has(Field::Traceparent) => None,
            Direction::Outbound => {
                let inherited = lineage.of(headers);
                self.on_behalf = inherited.attempt;
                inherited.deadline
            }
        };
        let own = own
            .map(|at| if self.link.direction == Direction::Inbound && at > self.started { at + LAST_WORD } else { at });
        let travelling = [own, inherited].into_iter().flatten().min();
        let travelling = travelling.map(|at| End { at, reason: Reason::DeadlineExceeded });
        self.request_end = nearest(by_policy, travelling);
    }

    /// What is left of its time at `now`, as its callee is told: without the time by which a proxy outwaits its caller, which would
    /// add up from one to the next.
    pub fn time_left(&self, now: Instant) -> Option<Duration> {
        let end = self.request_end?;
        let outwaited = self.link.direction == Direction::Inbound && end.reason == Reason::DeadlineExceeded;
        let left = end.at.saturating_duration_since(now);
        Some(if outwaited { left.saturating_sub(LAST_WORD) } else { left })
    }

    /// Begins its span, if it is sampled. A trace that begins here is known in the record by its id.
    pub fn begin_trace(&mut self, headers: &HeaderMap) {
        let Some(sampling) = self.link.worker.common.sampling else { return };
        self.trace = sampling.begin(headers);
        if let Some(trace) = self.trace.as_ref().filter(|trace| trace.is_new()) {
            self.ids[1] = HeaderValue::try_from(trace.traceparent(trace.span)).ok();
        }
    }

    /// Says in a request's head whose child it is: that of try number `attempt`, or of the request itself beside its application.
    pub fn tell_trace(&self, attempt: u32, headers: &mut HeaderMap) {
        if let Some(trace) = &self.trace {
            let attempt = if self.link.direction == Direction::Outbound { attempt } else { 0 };
            trace.tell(headers, trace.span_of(attempt));
        }
    }

    /// How many tries were made so far.
    pub fn attempts(&self) -> u32 {
        self.tries.borrow().made()
    }

    /// Says in the head of an answer whether another try would help. What an application copied does not count.
    pub fn tell_layers(&self, headers: &mut HeaderMap, is_failure: bool) {
        headers.remove(FIREBREAK_RETRY);
        if let (Some(entered), true) = (&self.entered, is_failure) {
            entered.tell(headers);
        }
    }

    /// What `Proxy-Status` says of this call.
    pub fn member(&self, reason: Reason, received_status: Option<StatusCode>) -> Member<'_> {
        Member {
            name: &self.link.worker.common.name,
            reason,
            domain: self.domain(reason),
            received_status,
            attempts: self.attempts(),
            policy: self.callee.policy.as_ref().map(|policy| &*policy.name),
            dependency: self.dependency.as_deref(),
            fault: self.fault.as_ref().map(|fault| &*fault.name).or(self.told_fault.as_deref()),
        }
    }

    /// Enters a call that ended well.
    pub fn succeeded(&mut self) {
        self.enter(if self.decided > 1 { Fate::SucceededAfterRetry } else { Fate::Succeeded }, None);
    }

    /// Enters a call that ended otherwise.
    pub fn failed(&mut self, reason: Reason) {
        self.enter(Fate::from(reason), Some(reason));
    }

    fn enter(&mut self, fate: Fate, reason: Option<Reason>) {
        if std::mem::replace(&mut self.in_books, true) {
            return;
        }
        self.permit = None;
        self.give_place_back(reason);
        let outcome = match reason {
            None => Some(Outcome::Passed),
            Some(Reason::CalleeError | Reason::ResponseIncomplete) => Some(Outcome::Failed),
            // A stream that began to answer and outlived a clock, or whose caller does not read, says nothing of the callee.
            Some(reason) => {
                let is_above = self.is_hit_above() && reason.domain() == Domain::Injected;
                (reason.is_outcome() && !reason.is_clock() && !is_above).then_some(Outcome::Failed)
            }
        };
        self.tell_end(outcome);
        let mut admitted = std::mem::take(&mut self.admitted);
        if let Some(outcome) = outcome {
            admitted.ended(outcome, clock::now());
        }
        let shard = self.callee.metrics.shard(self.link.worker.id);
        let took = clock::now().saturating_duration_since(self.started);
        shard.request(fate, self.status, took);
        if let Some(reason) = reason {
            shard.failure(reason, self.domain(reason));
            self.tell_origin(reason);
        }
        if reason.is_some() || self.trace.is_some() {
            self.exemplify(took, reason);
        }
        let slowed = reason.is_none() && (self.attempts() > 1 || self.tries.get_mut().delayed() || self.is_throttled());
        if reason.is_some() || slowed || self.trace.is_some() {
            self.record(fate, reason, slowed);
        }
    }

    /// Makes it an example of the numbers that it is in, if it can be looked up.
    fn exemplify(&self, took: Duration, reason: Option<Reason>) {
        let trace = self.trace.as_ref().map(|trace| Name::Trace(trace.id));
        let named = trace.or_else(|| self.ids[0].as_ref().and_then(exemplar::Id::of).map(Name::Request));
        if let Some(name) = named {
            let failure = reason.map(|reason| (reason, self.domain(reason)));
            let example = Exemplar { name, took, at: Timestamp::now() };
            self.callee.metrics.shard(self.link.worker.id).exemplify(example, failure);
        }
    }

    /// A fault that hit the last try is to blame for a clock that ran out, and for what it did itself; an error that the
    /// callee answered all the same is the callee's. Nor is it the callee's application that was slow where the request never
    /// left the bulkhead's queue, or its last try never had a connection.
    fn domain(&self, reason: Reason) -> Domain {
        match reason {
            Reason::CalleeError if self.dependency.is_some() => Domain::CalleeDependency,
            reason if self.is_late_by_fault(reason) => Domain::Injected,
            reason if reason.is_clock() && self.awaits_caller.get() => Domain::Caller,
            reason if reason.is_clock() && self.attempts() == 0 => Domain::CallerPolicy,
            reason if reason.is_clock() && self.tries.borrow().lacked_connection(self.decided) => Domain::Network,
            reason => reason.domain(),
        }
    }

    /// Whether a clock ran out that a fault had slowed. Above the policy only the caller's own deadline sees a delay.
    fn is_late_by_fault(&self, reason: Reason) -> bool {
        if !self.is_hit_above() {
            let has_head = self.status.is_some();
            return reason.is_clock() && self.struck.as_ref().is_some_and(|struck| struck.holds_up(has_head));
        }
        let by_delay =
            matches!(reason, Reason::DeadlineExceeded | Reason::DeadlineSpent) && self.tries.borrow().delayed();
        by_delay || reason.is_clock() && self.status.is_some() && self.is_throttled()
    }

    /// Whether a fault hit all of the request, above the policy.
    pub fn is_hit_above(&self) -> bool {
        self.fault.as_ref().is_some_and(|fault| fault.at != Position::Attempt)
    }

    fn is_throttled(&self) -> bool {
        self.spoil.as_ref().is_some_and(|spoil| spoil.rate.is_some())
    }

    /// Looks for what the callee's application called in vain when its answer says that it failed: beside the callee that is
    /// known where the application forwards traces, and the caller reads it in what the callee's proxy says.
    pub fn find_dependency(&mut self, reason: Reason, headers: &HeaderMap) {
        let known = match (reason, self.link.direction) {
            (Reason::CalleeError, Direction::Outbound) => proxy_status::dependency_said_by_callee(headers),
            (Reason::CalleeError, Direction::Inbound) => self.entered.as_ref().and_then(Entered::dependency),
            _ => None,
        };
        self.dependency = known.map(Into::into);
        if reason.domain() == Domain::Injected && self.link.direction == Direction::Outbound {
            self.told_fault = proxy_status::fault_said_by_callee(headers).map(Into::into);
        }
        self.tell_origin(reason);
    }

    /// Whatever this call was made for may fail with it. The deepest callee is named.
    fn tell_origin(&self, reason: Reason) {
        if self.link.direction == Direction::Inbound || matches!(self.domain(reason), Domain::Caller | Domain::Mesh) {
            return;
        }
        if let Some(traceparent) = &self.ids[1] {
            let metrics = &self.callee.metrics;
            let own = || format!("{}:{}", metrics.service, metrics.port).into();
            let callee = || self.dependency.clone().unwrap_or_else(own);
            self.link.worker.common.lineage.depends(traceparent, callee);
        }
    }

    fn record(&mut self, fate: Fate, reason: Option<Reason>, slowed: bool) {
        let now = clock::now();
        let took = now.saturating_duration_since(self.started);
        let trace = self.trace.take();
        let stale = reason.filter(|reason| *reason == Reason::StaleConnection);
        let id = |value: &Option<HeaderValue>| value.as_ref().and_then(access_log::id);
        self.link.worker.common.log.put(Record {
            time: Timestamp::now(),
            direction: self.link.direction.name(),
            service: self.callee.metrics.service.clone(),
            port: self.callee.metrics.port.clone(),
            method: access_log::method(&self.method),
            path: access_log::path(self.uri.path()),
            request_id: id(&self.ids[0]),
            traceparent: id(&self.ids[1]),
            status: self.status.map(|status| status.as_u16()),
            fate: fate.name(),
            reason: reason.map(Reason::name),
            fault_domain: reason.map(|reason| self.domain(reason).name()),
            slowed,
            attempts: self.attempts(),
            duration_ms: millis(took),
            trace,
            took,
            policy: self.callee.policy.as_ref().map(|policy| policy.name.clone()),
            policy_generation: self.callee.policy.as_ref().map(|policy| policy.generation),
            fault: self.fault.as_ref().map(|fault| fault.name.clone()).or_else(|| self.told_fault.clone()),
            dependency: self.dependency.clone(),
            callee_idle_timeout_ms: stale.and_then(|_| self.callee.metrics.keep_alive.known(now)).map(millis),
            tries: self.tries.get_mut().told(self.started, now, |way| self.callee.behind(way)),
        });
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if !self.in_books {
            self.fault = self.tries.get_mut().fault_under_way().or(self.fault.as_ref()).cloned();
            self.failed(Reason::CallerCancelled);
        }
        self.link.moments.reset();
        self.link.ends();
    }
}
