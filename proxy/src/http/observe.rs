//! Where the policy that is observed hears of a request. Where there is none, each of these is one look at an `Option`.

use http::request::Parts;

use super::{
    attempt::{Got, Try},
    call::Call,
    pipeline::{Sending, brought, told},
};
use crate::{
    clock,
    policy::{
        breaker::Outcome,
        bulkhead::Need,
        shadow::{Asked, Step},
    },
    verdict::Reason,
};

impl Call {
    /// Begins to be followed, if a policy is observed for its callee. `switching` says whether it asks for another protocol.
    pub(super) fn follow(&mut self, head: &Parts, switching: bool) {
        if let Some(observer) = &self.callee.observer {
            let asked = Asked { started: self.admitted_at, grpc: self.grpc, switching, layers: self.on_behalf };
            self.observed = Some(observer.follow(head, asked));
        }
    }

    /// Comes to the rate limit. What the observed one would have refused is followed no further.
    pub(super) fn arrives(&mut self) {
        if self.observed.as_ref().is_some_and(|observed| !observed.arrives(clock::now())) {
            self.observed = None;
        }
    }

    /// Has come through the bulkhead in force.
    pub(super) fn enters(&mut self, need: Need) {
        if let Some(observed) = &mut self.observed {
            observed.enters(need, clock::now());
        }
    }

    /// Something happens to it.
    pub(super) fn tell(&self, step: impl FnOnce() -> Step) {
        if let Some(observed) = &self.observed {
            observed.tell(step(), clock::now());
        }
    }

    /// It is over, and breakers that wait for that hear this.
    pub(super) fn tell_end(&mut self, outcome: Option<Outcome>) {
        if let Some(observed) = self.observed.take() {
            observed.tell(Step::Over(outcome), clock::now());
        }
    }
}

impl Sending<'_> {
    /// A try is over.
    pub(super) fn tell_ended(&self, one: &Try, outcome: &Result<Got, Reason>) {
        self.call.tell(|| Step::Ended {
            number: one.number,
            verdict: self.verdict(one, outcome),
            brought: brought(outcome, self.call),
            told: told(outcome),
            replayable: self.source.replayable(),
            layered: self.told_by_layer(outcome),
        });
    }
}
