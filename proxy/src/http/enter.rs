//! The way in to the application beside this proxy, where it is limited how much it works on at once.

use std::sync::Arc;

use http::{HeaderValue, StatusCode, header, request::Parts};

use super::{call::Call, reply};
use crate::{clock, policy::concurrency::Limit, upstream::send::Answer, verdict::Reason};

impl Call {
    /// The limit that holds for it, if one does. What the kubelet asks is not the load that is to be limited: an application that is busy
    /// is not ill.
    pub fn limit(&self, head: &Parts) -> Option<Arc<Limit>> {
        self.callee.limit.as_ref().filter(|_| !self.is_probe(head)).cloned()
    }

    /// Whether it is the kubelet that asks how the pod is: a request as the pod's own probes are.
    pub fn is_probe(&self, head: &Parts) -> bool {
        let (port, method) = (self.link.destination.port(), head.method.as_str());
        let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
        let agent = head.headers.get(header::USER_AGENT).map(HeaderValue::as_bytes);
        self.link.worker.common.probes.iter().any(|probe| probe.is(port, method, path, agent))
    }

    /// Takes a place among what the application works on, at once or after a wait.
    pub async fn take_place(&mut self, limit: &Arc<Limit>) -> Result<(), Reason> {
        let now = clock::now();
        // The proxy waits a little longer than its caller does; for the caller it is too late by then.
        let deadline = self.time_left(now).and_then(|left| now.checked_add(left));
        self.place = Some(Box::new(limit.acquire(deadline).await?));
        Ok(())
    }

    /// The application has answered, and has its work behind it: what is still under way may be a stream that is open for days, or
    /// wait for a caller that reads slowly. How long it took says how much it has to do, unless it failed.
    pub fn measure(&mut self, answer: &Answer) {
        let Some(mut place) = self.place.take() else { return };
        let (status, grpc) = (answer.response.status(), self.grpc_status(answer));
        let is_others = || self.entered.as_ref().is_some_and(|entered| entered.dependency().is_some());
        if is_overload(status, grpc) && !is_others() {
            place.overloaded(clock::now());
        } else if reply::is_failure(status, grpc) || status.is_client_error() {
            // An error is soon made, and one that another caused says nothing of this application.
            place.failed();
        } else {
            place.answered(clock::now());
        }
    }

    /// Its place is free again, when it ends for `reason`, or well.
    pub fn give_place_back(&mut self, reason: Option<Reason>) {
        let Some(mut place) = self.place.take() else { return };
        match reason {
            Some(Reason::CallerCancelled) => place.left(clock::now()),
            // The application waited too, for the rest of what the caller sends.
            Some(reason) if reason.is_clock() && self.awaits_caller.get() => place.failed(),
            Some(reason) if reason.is_clock() => place.overloaded(clock::now()),
            _ => {}
        }
    }
}

/// Whether an application says that it is overloaded, or that its time was up: 503 and 504, gRPC's `DEADLINE_EXCEEDED`,
/// `RESOURCE_EXHAUSTED` and `UNAVAILABLE`.
fn is_overload(status: StatusCode, grpc: Option<u8>) -> bool {
    matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT) || matches!(grpc, Some(4 | 8 | 14))
}
