use std::{cell::RefCell, net::Ipv4Addr};

use bytes::Bytes;
use http::Request;
use http_body_util::BodyExt;
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::{
    h1::{Conn, Spelling},
    http::{replay::Replay, send_body::Source},
    net::{client_stream::ClientStream, connections::Connections},
    policy::bulkhead::{Gate, Limits, Room},
    telemetry::metrics::{Direction, Registry},
    upstream::{
        pool::{Key, Pool},
        send::single,
    },
};

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let opened = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (opened, listener.accept().await.unwrap().0)
}

/// A connection to a callee, and the callee's end of it.
async fn to_callee() -> (Exclusive, TcpStream) {
    let (stream, callee) = pair().await;
    let Room::Yes(opened) = Gate::new(Limits::NONE).open() else { panic!("there is no limit") };
    let metrics = Registry::new(1, Connections::default()).callee(Direction::Outbound, "shop/a", Some(80));
    let key = Key { callee: 1, address: callee.local_addr().unwrap() };
    (Pool::default().exclusive(key, single(stream, opened, &metrics)), callee)
}

/// Sends a POST whose body of 5 bytes, of which this much has come, is kept or not. What became of it.
async fn post(exclusive: Exclusive, come: &'static [u8], keep: Option<&Replay>) -> Result<Answer, Failed> {
    let (stream, _caller) = pair().await;
    let caller = Rc::new(RefCell::new(Conn::new(ClientStream::after(stream, Bytes::from_static(come)))));
    caller.borrow_mut().begin_body(Framing::Length(5), false);
    let source = Source::new(Incoming::Http1(Body::new(&caller)), keep, None);
    let (head, ()) =
        Request::post("/").header("host", "callee").header("content-length", 5).body(()).unwrap().into_parts();
    let (head, spelling) = (RefCell::new(head), Spelling::default());
    let outgoing = Outgoing { head: &head, spelling: &spelling, source: &source, tell: &|_| {}, interim: &|_| {} };
    send(exclusive, &outgoing, source.body().unwrap()).await
}

fn reset(callee: TcpStream) {
    socket2::SockRef::from(&callee).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    drop(callee);
}

#[tokio::test]
async fn what_the_kernel_did_not_take_is_given_back_whole() {
    for keep in [None, Some(Replay::default())] {
        let (exclusive, callee) = to_callee().await;
        // It is known to the kernel before the first write, and to nobody else.
        reset(callee);
        let Err(Failed::Unsent(body)) = post(exclusive, b"hello", keep.as_ref()).await else {
            panic!("nothing was written")
        };
        assert!(!body.is_end_stream());
        assert_eq!(body.collect().await.unwrap().to_bytes(), "hello");
    }
}

#[tokio::test]
async fn what_the_kernel_took_may_have_been_read() {
    let (exclusive, callee) = to_callee().await;
    let post = post(exclusive, b"hello", None);
    let lose = async {
        callee.peek(&mut [0]).await.unwrap();
        reset(callee);
    };
    let (outcome, ()) = tokio::join!(post, lose);
    let brought = match outcome {
        Ok(_) => "an answer",
        Err(Failed::Unsent(_) | Failed::Unprocessed) => "nothing was sent",
        Err(Failed::ConnectionLost) => "lost",
        Err(Failed::Sent(reason)) => reason.name(),
    };
    assert_eq!(brought, "lost");
}
