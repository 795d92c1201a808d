//! Connections that change their protocol: WebSocket, and CONNECT. After the callee agreed, bytes go both ways and only the
//! idle clock counts; a config change does not touch them.

use http::{Method, Response, StatusCode};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::task::spawn_local;

use super::{call::Call, headers::prepare_response, reply_body::ReplyBody};
use crate::{
    net::relay::{End, relay},
    policy::timeout::Clocks,
    upstream::send::Answer,
    verdict::Reason,
};

/// Whether the callee agreed to change the protocol.
pub fn agreed(answer: &Answer, method: &Method) -> bool {
    let status = answer.response.status();
    status == StatusCode::SWITCHING_PROTOCOLS || *method == Method::CONNECT && status.is_success()
}

/// Passes the callee's agreement on and forwards bytes until either side is done.
pub fn switch(mut call: Call, clocks: Clocks, caller: OnUpgrade, answer: Answer) -> Response<ReplyBody> {
    let Answer { mut response, connection, .. } = answer;
    let callee = hyper::upgrade::on(&mut response);
    let (mut head, _) = response.into_parts();
    prepare_response(&mut head, true);
    call.status = Some(head.status);
    call.link.moments.upgrade();
    // Its time ended with the handshake: what the application does from now on is not on behalf of a request.
    call.entered = None;
    let counted = call.link.worker.common.connections.count();
    spawn_local(async move {
        let ends = tokio::try_join!(caller, callee);
        let _held = (connection, counted);
        let Ok((caller, callee)) = ends else { return call.failed(Reason::UpgradeFailed) };
        let (end, bytes) = relay(TokioIo::new(caller), TokioIo::new(callee), clocks.idle).await;
        call.callee.metrics.shard(call.link.worker.id).opaque_bytes.add(bytes);
        match end {
            End::Idle => call.failed(Reason::IdleTimeout),
            // A WebSocket that breaks off is how many of them end; the application's own close frames went through.
            End::Closed | End::Broken(_) => call.succeeded(),
        }
    });
    Response::from_parts(head, ReplyBody::empty())
}
