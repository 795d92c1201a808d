//! Connections that change their protocol: WebSocket, and CONNECT. After the callee agreed, bytes go both ways and only the
//! idle clock counts; a config change does not touch them.

use std::rc::Rc;

use http::Method;

use super::{
    call::Call,
    headers::prepare_response,
    reply::{self, Reply},
    reply_body::ReplyBody,
};
use crate::{
    h1::conn::{Shared, Tunnel},
    net::{
        client_stream::ClientStream,
        opaque,
        relay::{End, relay},
    },
    policy::timeout::Clocks,
    upstream::{
        exclusive::agrees_to_switch,
        send::{Answer, Connection},
    },
    verdict::Reason,
};

/// A connection whose callee has agreed to change its protocol.
#[derive(Debug)]
pub struct Switch {
    call: Box<Call>,
    clocks: Clocks,
    callee: Connection,
}

/// Whether the callee agreed to change the protocol.
pub fn agreed(answer: &Answer, method: &Method) -> bool {
    agrees_to_switch(method, answer.response.status())
}

/// The callee's agreement, to be passed on.
pub fn agreement(mut call: Box<Call>, clocks: Clocks, answer: Answer) -> Reply {
    let Answer { response, spelling, connection, upload, .. } = answer;
    let is_sent = |connection: &Connection| match connection {
        Connection::Exclusive(exclusive) => exclusive.conn.borrow().is_flushed(),
        Connection::Shared(_) => true,
    };
    if !upload.is_done() || !is_sent(&connection) {
        // What is left of the request would mix with what is said in the other protocol.
        return reply::failure(call, Reason::UpgradeFailed);
    }
    let (mut head, _) = response.into_parts();
    prepare_response(&mut head, true);
    call.status = Some(head.status);
    // Its time ended with the handshake: what the application does from now on is not on behalf of a request.
    call.entered = None;
    // Nor is a connection that may be open for days something that the application works on.
    call.place = None;
    let switch = Some(Box::new(Switch { call, clocks, callee: connection }));
    Reply { response: http::Response::from_parts(head, ReplyBody::empty()), spelling, switch }
}

impl Switch {
    /// Forwards bytes until either side is done.
    pub async fn forward(mut self, caller: &Shared<ClientStream>) {
        let Connection::Exclusive(callee) = &self.callee else { return self.call.failed(Reason::UpgradeFailed) };
        let callee = &callee.conn;
        let (end, bytes) = relay(Tunnel(Rc::clone(caller)), Tunnel(Rc::clone(callee)), self.clocks.idle).await;
        if !matches!(end, End::Closed) {
            // Neither side is to take it for an orderly end.
            self.call.link.moments.reset_at_close();
            opaque::reset(callee.borrow().stream().get_ref());
        }
        self.call.callee.metrics.shard(self.call.link.worker.id).opaque_bytes.add(bytes);
        match end {
            End::Idle => self.call.failed(Reason::IdleTimeout),
            // A WebSocket that breaks off is how many of them end; the application's own close frames went through.
            End::Closed | End::Broken(_) => self.call.succeeded(),
        }
    }

    /// The caller was gone before it learned of it.
    pub fn failed(mut self) {
        self.call.failed(Reason::UpgradeFailed);
    }
}
