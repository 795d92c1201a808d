//! HTTP/2 for [`rate`](crate::rate).

use std::{cell::Cell, rc::Rc};

use anyhow::Context;
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, task::spawn_local, time::Instant};

use crate::{
    To,
    rate::{Books, Sender},
};

type Body = Empty<Bytes>;

#[derive(Clone, Copy)]
pub(crate) struct Local;

impl<F: Future<Output: 'static> + 'static> hyper::rt::Executor<F> for Local {
    fn execute(&self, future: F) {
        spawn_local(future);
    }
}

struct Connection {
    sender: SendRequest<Body>,
    open: Cell<usize>,
}

struct Connections {
    all: Vec<Rc<Connection>>,
    streams: usize,
    books: Rc<Books>,
}

/// Opens all connections.
pub(crate) async fn connect(to: To, streams: usize, books: &Rc<Books>) -> anyhow::Result<Rc<dyn Sender>> {
    let mut all = Vec::new();
    for _ in 0..to.connections {
        let stream = TcpStream::connect(to.address).await.context("cannot connect")?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http2::handshake(Local, TokioIo::new(stream)).await?;
        // An end is told by what was under way.
        spawn_local(async { drop(connection.await) });
        all.push(Rc::new(Connection { sender, open: Cell::default() }));
    }
    Ok(Rc::new(Connections { all, streams, books: Rc::clone(books) }))
}

impl Sender for Connections {
    fn send(&self, due: Instant) -> bool {
        let emptiest = self.all.iter().min_by_key(|connection| connection.open.get());
        let Some(connection) = emptiest.filter(|connection| connection.open.get() < self.streams) else { return false };
        connection.open.set(connection.open.get() + 1);
        spawn_local(exchanges(Rc::clone(connection), Rc::clone(&self.books), due));
        true
    }
}

/// Makes a request, and then those that waited for its stream.
async fn exchanges(connection: Rc<Connection>, books: Rc<Books>, mut due: Instant) {
    loop {
        let ok = exchange(&connection).await.unwrap_or(false);
        books.answered(due, ok);
        let waiting = books.waiting.borrow_mut().pop_front();
        let Some(next) = waiting else { break };
        due = next;
    }
    connection.open.set(connection.open.get() - 1);
}

async fn exchange(connection: &Connection) -> anyhow::Result<bool> {
    let mut request = Request::new(Body::new());
    *request.uri_mut() = http::Uri::from_static("http://bench/");
    let mut sender = connection.sender.clone();
    let response = sender.send_request(request).await?;
    let ok = response.status() == http::StatusCode::OK;
    let mut body = response.into_body();
    while let Some(frame) = body.frame().await {
        frame?;
    }
    Ok(ok)
}
