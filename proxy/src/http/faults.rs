//! What a FaultSpec does to a request: drawn for each try, and suffered before the try is sent.

use std::{rc::Rc, sync::Arc, time::Duration};

use firebreak_crds::spec::Position;
use http::{HeaderValue, request::Parts};
use tokio::time::{Instant, sleep};

use super::{
    call::Call,
    headers::{X_REQUEST_ID, correlation},
};
use crate::{
    policy::fault::{Abort, FaultSet, Hit, Injected, active::Place, id_hash},
    telemetry::metrics::{Direction, FaultKind},
    verdict::Reason,
};

impl Call {
    /// Draws what hits the request, and suffers it: above the policy, whose clocks begin afterwards, or beside the callee. What the
    /// kubelet asks there is left alone: an experiment is not to have the pod restarted.
    pub async fn suffer_above(&mut self, head: &Parts) -> Option<Result<Injected, Reason>> {
        let at = match self.link.direction {
            Direction::Outbound => Position::Request,
            Direction::Inbound if self.is_probe(head) => return None,
            Direction::Inbound => Position::Inbound,
        };
        let struck = self.draw(head, at, 0, Instant::now())?;
        self.strike(Rc::clone(&struck));
        let end = struck.suffer().await;
        self.admitted_at = Instant::now();
        end
    }

    /// Draws what hits try number `number`, which is about to be made and is the one that began last, or, with 0, the whole request
    /// before the first. Of the faults that are for it one acts, where it is meant to.
    pub fn draw(&self, head: &Parts, at: Position, number: u32, now: Instant) -> Option<Rc<Struck>> {
        if self.is_hit_above() {
            return None;
        }
        let set = self.callee.faults.iter().find(|set| set.active(now) && set.concerns(head));
        let set = set.filter(|set| set.at == at)?;
        // Which requests are hit does not depend on which begin a trace here.
        let is_new = self.trace.as_ref().is_some_and(|trace| trace.is_new());
        let known =
            if is_new { head.headers.get(X_REQUEST_ID).map(HeaderValue::as_bytes) } else { correlation(&head.headers) };
        let id = known.map_or_else(|| fastrand::u64(..), id_hash);
        let hit = Some(set.draw(id, number)).filter(|hit| *hit != Hit::default())?;
        let place = set.hold()?;
        self.tries.borrow_mut().hit(set, hit.delay);
        Some(Rc::new(Struck { fault: Arc::clone(set), _place: place, hit }))
    }

    /// Takes over what hit the try that decided, or the whole request.
    pub fn strike(&mut self, struck: Rc<Struck>) {
        self.spoil = struck.hit.spoil().map(Box::new);
        self.fault = Some(Arc::clone(&struck.fault));
        self.struck = Some(struck);
    }

    /// The last try is of no account any more, nor is what hit it; what hit the whole request is.
    pub fn forget_strike(&mut self) {
        if !self.is_hit_above() {
            (self.fault, self.struck, self.spoil) = (None, None, None);
        }
    }
}

/// A fault, what it does to one try, and its place among those that are hit at once.
#[derive(Debug)]
pub struct Struck {
    fault: Arc<FaultSet>,
    _place: Place,
    hit: Hit,
}

impl Struck {
    /// Whether a try may be late for it, before the head of its answer or after that.
    pub fn holds_up(&self, has_head: bool) -> bool {
        self.hit.delay.is_some() || self.hit.abort.is_some() || has_head && self.hit.rate.is_some()
    }

    /// Suffers it. What it comes to, if it is an end: an answer in the callee's place, or a failure.
    pub async fn suffer(&self) -> Option<Result<Injected, Reason>> {
        let Self { fault, hit, .. } = self;
        if let Some(delay) = hit.delay {
            fault.count(FaultKind::Delay);
            while_it_acts(fault, delay).await;
        }
        // It may have come to its end meanwhile.
        let abort = hit.abort.filter(|_| fault.active(Instant::now()))?;
        fault.count(FaultKind::Abort);
        Some(match abort {
            Abort::Answer(answer) => Ok(answer),
            Abort::Failure(reason) => Err(reason),
            Abort::Blackhole => {
                while_it_acts(fault, Duration::MAX).await;
                Err(Reason::FaultBlackhole)
            }
        })
    }
}

/// Waits so long, but not beyond the fault's end, be that its own or because it is taken away.
async fn while_it_acts(fault: &FaultSet, time: Duration) {
    let ended = fault.ended();
    let time = time.min(fault.remains(Instant::now()));
    tokio::select! {
        () = sleep(time) => {}
        () = ended => {}
    }
}
