//! What a FaultSpec does to a request: drawn for each try, and suffered before the try is sent.

use firebreak_crds::spec::Position;
use http::{HeaderValue, request::Parts};
use tokio::time::{Instant, sleep};

use super::{
    call::Call,
    headers::{X_REQUEST_ID, correlation},
};
use crate::{
    policy::fault::{Abort, Hit, Injected, id_hash},
    telemetry::metrics::FaultKind,
    verdict::Reason,
};

impl Call {
    /// Draws what hits the request, and suffers it: above the policy, whose clocks begin afterwards.
    pub async fn suffer_above(&mut self, head: &Parts) -> Option<Result<Injected, Reason>> {
        let hit = self.draw(head, Position::Request, Instant::now());
        let end = self.suffer(hit).await;
        if self.fault.is_some() {
            self.admitted_at = Instant::now();
        }
        if end.is_some() {
            // What was dialled for this request is not for the next one to answer for.
            self.link.first_try.set(None);
        }
        end
    }

    /// Draws what hits the try that is about to be made, or the whole request before the first. Of the faults that are for it
    /// one acts, where it is meant to.
    pub fn draw(&mut self, head: &Parts, at: Position, now: Instant) -> Hit {
        if self.is_hit_above() {
            return Hit::default();
        }
        (self.fault, self.spoil) = (None, None);
        let set = self.callee.faults.iter().find(|set| set.active(now) && set.concerns(head));
        let Some(set) = set.filter(|set| set.at == at) else { return Hit::default() };
        // Which requests are hit does not depend on which begin a trace here.
        let is_new = self.trace.as_ref().is_some_and(|trace| trace.is_new());
        let known =
            if is_new { head.headers.get(X_REQUEST_ID).map(HeaderValue::as_bytes) } else { correlation(&head.headers) };
        let id = known.map_or_else(|| fastrand::u64(..), id_hash);
        let hit = set.draw(id, self.attempts);
        if hit == Hit::default() {
            return hit;
        }
        self.fault = set.hold();
        if self.fault.is_none() {
            return Hit::default();
        }
        self.tries.hit(set, hit.delay);
        self.spoil = hit.spoil().map(Box::new);
        hit
    }

    /// Suffers what was drawn. What it comes to, if it is an end: an answer in the callee's place, or a failure.
    pub async fn suffer(&self, hit: Hit) -> Option<Result<Injected, Reason>> {
        let fault = self.fault.as_ref()?;
        if let Some(delay) = hit.delay {
            fault.count(FaultKind::Delay);
            // Not beyond the fault's own end.
            sleep(delay.min(fault.remains(Instant::now()))).await;
        }
        let abort = hit.abort?;
        fault.count(FaultKind::Abort);
        Some(match abort {
            Abort::Answer(answer) => Ok(answer),
            Abort::Failure(reason) => Err(reason),
            Abort::Blackhole => {
                sleep(fault.remains(Instant::now())).await;
                Err(Reason::FaultBlackhole)
            }
        })
    }
}
