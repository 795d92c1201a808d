//! What the caller gets: the callee's answer passed on, or the proxy's own with the reason in it.

use std::{pin::Pin, rc::Rc, sync::Arc, task::Poll};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use http_body::Body;
use tokio::{
    task::spawn_local,
    time::{Duration, timeout},
};

use super::{
    call::Call,
    grpc,
    headers::prepare_response,
    reply_body::{ReplyBody, Tail},
    send_body::Activity,
    upgrade::Switch,
};
use crate::{
    h1::Spelling,
    policy::{fault::Injected, timeout::Clocks},
    telemetry::metrics::Direction,
    upstream::send::{Answer, Connection, FromCallee},
    verdict::{Domain, Fate, Reason, proxy_status::said_by_callee},
};

/// Longest body of an unused answer that is read so that its connection can be used again, and how long that may take.
const DISCARD_BYTES: usize = 64 * 1024;
const DISCARD_TIME: Duration = Duration::from_secs(1);

/// After how many seconds a request that the bulkhead refused may try again.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");

/// What goes back to the caller.
#[derive(Debug)]
pub struct Reply {
    /// The response.
    pub response: Response<ReplyBody>,
    /// How its head is spelled.
    pub spelling: Spelling,
    /// What becomes of the connection after it, where that changes its protocol.
    pub switch: Option<Box<Switch>>,
}

impl From<Response<ReplyBody>> for Reply {
    fn from(response: Response<ReplyBody>) -> Self {
        Self { response, spelling: Spelling::default(), switch: None }
    }
}

/// The callee's answer. The call ends with the last byte of its body.
pub fn relayed(mut call: Box<Call>, clocks: Clocks, activity: Option<Activity>, answer: Answer) -> Reply {
    let failing = answer_failed(&call, &answer);
    let Answer { response, spelling, connection, first, upload } = answer;
    let (mut head, body) = response.into_parts();
    prepare_response(&mut head, false);
    call.status = Some(head.status);
    let grpc_status = call.grpc.then(|| grpc::status(&head.headers)).flatten();
    let reason = failure_of(&call, head.status, grpc_status, &head.headers);
    // What an HTTP server answers to a gRPC call has none.
    let owes_status = call.grpc
        && call.link.multiplexed
        && head.status == StatusCode::OK
        && grpc::is_grpc(&head.headers)
        && grpc_status.is_none();
    call.tell_layers(&mut head.headers, failing.is_some());
    if let Some(reason) = reason {
        call.find_dependency(reason, &head.headers);
        call.member(reason, Some(head.status)).append_to(&mut head.headers);
    } else if let Some(cut) = call.spoil.as_ref().and_then(|spoil| spoil.foretold(&body)) {
        call.member(cut, Some(head.status)).append_to(&mut head.headers);
    }
    let tail = Tail::new(call, connection, upload, reason, activity.zip(clocks.idle), owes_status);
    let response = Response::from_parts(head, ReplyBody::relayed(body, first, tail));
    Reply { response, spelling, switch: None }
}

/// Whether an answer says that the callee failed.
pub fn is_failure(status: StatusCode, grpc: Option<u8>) -> bool {
    status.is_server_error() || grpc.is_some_and(grpc::is_server_error)
}

/// Why the callee failed, if its answer says that it did: what its own proxy says, if that made the answer, or an error of its
/// own. What the application itself answers to the proxy beside it is its own error, whatever headers it has copied.
pub fn failure_of(call: &Call, status: StatusCode, grpc: Option<u8>, headers: &HeaderMap) -> Option<Reason> {
    let said = || if call.link.direction == Direction::Outbound { said_by_callee(headers) } else { None };
    if is_failure(status, grpc) {
        return Some(said().unwrap_or(Reason::CalleeError));
    }
    // An experiment may answer as the caller's own mistakes are answered, and a limit does so on gRPC.
    let may_be_said = status.is_client_error() || grpc.is_some_and(|grpc| grpc != 0);
    let is_made = |reason: &Reason| reason.domain() == Domain::Injected || *reason == Reason::Overload;
    if may_be_said { said().filter(is_made) } else { None }
}

/// Why the callee failed, by all that has come of its answer.
pub fn answer_failed(call: &Call, answer: &Answer) -> Option<Reason> {
    failure_of(call, answer.response.status(), call.grpc_status(answer), answer.ending())
}

/// The proxy's own answer to a request that failed.
pub fn failure(mut call: Box<Call>, reason: Reason) -> Reply {
    let mut response = own(&call, reason.status(), reason.grpc_status(), reason);
    if Fate::from(reason).is_refusal() {
        let seconds = call.retry_after.map(|after| HeaderValue::from(after.as_secs() + 1));
        response.headers_mut().insert(header::RETRY_AFTER, seconds.unwrap_or(RETRY_AFTER));
    }
    call.status = Some(response.status());
    call.failed(reason);
    response.into()
}

/// The answer of a fault in the callee's place.
pub fn injected(mut call: Box<Call>, answer: Injected) -> Reply {
    let (status, grpc_status) = injected_status(answer, call.grpc);
    let response = own(&call, status, grpc_status.unwrap_or_default(), Reason::FaultAbort);
    call.status = Some(response.status());
    call.failed(Reason::FaultAbort);
    response.into()
}

/// The statuses, HTTP and gRPC, that an injected answer has. A status of one protocol is said in the other's words where
/// the request speaks that.
pub fn injected_status(answer: Injected, is_grpc: bool) -> (StatusCode, Option<u8>) {
    match (answer, is_grpc) {
        (Injected::Http(status), false) => (status, None),
        (Injected::Http(status), true) => (StatusCode::OK, Some(grpc::from_http(status))),
        (Injected::Grpc(status), true) => (StatusCode::OK, Some(status)),
        (Injected::Grpc(status), false) => (grpc::to_http(status), None),
    }
}

/// Reads an answer that nobody wants to its end, so that its connection can be used again; or closes it, if the rest is
/// long or slow.
pub fn discard(call: &Call, response: Response<FromCallee>, connection: Connection) {
    let mut body = response.into_body();
    let Connection::Exclusive(exclusive) = connection else { return };
    let (worker, gate) = (Rc::clone(&call.link.worker), Arc::clone(&call.callee.gate));
    if body.is_end_stream() {
        return worker.pool.put(exclusive, &gate);
    }
    spawn_local(async move {
        let mut left = DISCARD_BYTES;
        let read = std::future::poll_fn(|cx| {
            loop {
                match Pin::new(&mut body).poll_frame(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(None) => return Poll::Ready(true),
                    Poll::Ready(Some(Err(_))) => return Poll::Ready(false),
                    Poll::Ready(Some(Ok(frame))) => {
                        let length = frame.data_ref().map_or(0, Bytes::len);
                        let Some(rest) = left.checked_sub(length) else { return Poll::Ready(false) };
                        left = rest;
                    }
                }
            }
        });
        if timeout(DISCARD_TIME, read).await == Ok(true) {
            worker.pool.put(exclusive, &gate);
        }
    });
}

/// What a person reads in the body of the proxy's own response.
pub fn text(reason: Reason) -> String {
    format!("firebreak: {}: {}\n", reason.name(), reason.details())
}

/// How the proxy ends a gRPC call whose answer had begun, which its head can no longer tell (RFC 9209, section 2: the field may
/// come as a trailer).
pub fn own_trailers(call: &Call, reason: Reason) -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(4);
    grpc::tell(&mut trailers, reason.grpc_status(), reason.details());
    call.member(reason, None).append_to(&mut trailers);
    trailers
}

/// A response of the proxy: in gRPC's words for gRPC, in HTTP's otherwise, always with `Proxy-Status`.
fn own(call: &Call, status: StatusCode, grpc_status: u8, reason: Reason) -> Response<ReplyBody> {
    let mut response = if call.grpc {
        let mut response = Response::new(ReplyBody::empty());
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, grpc::CONTENT_TYPE);
        grpc::tell(headers, grpc_status, reason.details());
        response
    } else {
        let mut response = Response::new(ReplyBody::whole(Bytes::from(text(reason))));
        *response.status_mut() = status;
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        response
    };
    call.tell_layers(response.headers_mut(), true);
    call.member(reason, None).append_to(response.headers_mut());
    response
}
