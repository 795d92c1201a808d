//! The requests that go out by a client, and what would be the right answer to each.

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use fastrand::Rng;
use firebreak_tests::app::grpc;
use futures::stream;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, header, response::Parts};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use tokio::time::sleep;

use crate::{
    kind::{Conduct, Kind},
    peers::HALF_LENGTH,
    site::{Body, LARGE_FRAME, LARGE_FRAMES, SUM, TRAILER, sum},
    world::World,
};

/// Pieces of a body that is sent slowly, and the most that lies between two. Some pauses are longer than the policies allow.
const PIECES: usize = 10;
const PAUSE_MILLIS: u64 = 60;
/// A large body: more than the proxy keeps for another try, in pieces, with short pauses in half of them.
const LARGE_BODY: std::ops::RangeInclusive<usize> = 64 * 1024..=512 * 1024;
const PIECE: usize = 16 * 1024;
const SHORT_PAUSE_MILLIS: u64 = 5;

/// What the right answer is.
pub(crate) struct Wanted {
    kind: Kind,
    id: u64,
    body: Bytes,
}

/// A request of this kind of caller.
pub(crate) fn new(world: &World, id: u64, kind: Kind, rng: &mut Rng) -> (Request<Body>, Wanted) {
    let length = match kind.conduct() {
        Conduct::SendMuch => rng.usize(LARGE_BODY),
        Conduct::Plain if kind != Kind::Heads => rng.usize(..2000) * rng.usize(..2),
        Conduct::Plain => 0,
        _ => PIECES,
    };
    let sent = bytes(id, length);
    let said = sum(&sent);
    let mut request = Request::new(body(id, kind, sent, rng));
    *request.method_mut() = match kind {
        Kind::Heads => Method::HEAD,
        Kind::Grpc | Kind::Trailers => Method::POST,
        _ if length == 0 => Method::GET,
        _ => Method::POST,
    };
    let path = match kind.conduct() {
        Conduct::Leave => "hold",
        Conduct::ReadSlowly => "large",
        Conduct::SendMuch if !world.is_calm() => "fickle",
        _ => "echo",
    };
    let authority = if kind.multiplexes() { "http://soak" } else { "" };
    *request.uri_mut() = format!("{authority}/{path}/{id}").try_into().unwrap_or_default();
    headers(kind, &said, request.headers_mut());
    let body = match kind {
        Kind::Grpc => grpc::framed(id.to_string().as_bytes()),
        _ => Bytes::from(format!("{id} {said}")),
    };
    (request, Wanted { kind, id, body })
}

/// The bytes that only the request of this number has.
pub(crate) fn bytes(id: u64, length: usize) -> Bytes {
    let mut bytes = vec![0; length];
    Rng::with_seed(id).fill(&mut bytes);
    Bytes::from(bytes)
}

fn headers(kind: Kind, said: &str, headers: &mut HeaderMap) {
    if kind == Kind::Grpc {
        return grpc::headers(headers);
    }
    headers.extend(HeaderValue::try_from(said).ok().map(|said| (HeaderName::from_static(SUM), said)));
    if !kind.multiplexes() {
        headers.insert(header::HOST, HeaderValue::from_static("soak"));
    }
    if kind == Kind::Trailers {
        headers.insert(header::TRAILER, HeaderValue::from_static(TRAILER));
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
}

fn body(id: u64, kind: Kind, sent: Bytes, rng: &mut Rng) -> Body {
    match kind.conduct() {
        Conduct::SendSlowly => in_pieces(sent, 1, PAUSE_MILLIS, rng.fork()),
        Conduct::SendMuch => in_pieces(sent, PIECE, SHORT_PAUSE_MILLIS * rng.u64(..2), rng.fork()),
        _ if kind == Kind::Grpc => Full::from(grpc::framed(b"ask")).boxed_unsync(),
        _ if kind == Kind::Trailers => {
            let trailers = HeaderMap::from_iter([(HeaderName::from_static(TRAILER), HeaderValue::from(id))]);
            let frames = [Ok::<_, Infallible>(Frame::data(sent)), Ok(Frame::trailers(trailers))];
            StreamBody::new(stream::iter(frames)).boxed_unsync()
        }
        _ => Full::from(sent).boxed_unsync(),
    }
}

/// Of no length that is known, with pauses of so many milliseconds at most.
fn in_pieces(body: Bytes, piece: usize, pause: u64, rng: Rng) -> Body {
    let pieces = stream::unfold((body, rng), move |(mut left, mut rng)| async move {
        if left.is_empty() {
            return None;
        }
        if pause > 0 {
            sleep(Duration::from_millis(rng.u64(..pause))).await;
        }
        let next = left.split_to(piece.min(left.len()));
        Some((Ok(Frame::data(next)), (left, rng)))
    });
    StreamBody::new(pieces).boxed_unsync()
}

impl Wanted {
    /// Why this, which came to its end with status 200, is not the right answer; `Ok(false)` is one that tells its failure.
    pub(crate) fn compare(&self, head: &Parts, body: &[u8], trailers: Option<&HeaderMap>) -> Result<bool, String> {
        let field = |name| trailers.unwrap_or(&head.headers).get(name).map(HeaderValue::as_bytes);
        let is_right = match self.kind {
            Kind::Grpc => match field("grpc-status") {
                None => return Err("no grpc-status".to_owned()),
                Some(b"0") => body == self.body,
                Some(_) => return Ok(false),
            },
            Kind::Reads1 | Kind::Reads2 => body.len() == LARGE_FRAME * LARGE_FRAMES,
            Kind::Heads => {
                let length = head.headers.get(header::CONTENT_LENGTH).map(HeaderValue::as_bytes);
                if body.is_empty() && length == Some(HALF_LENGTH) {
                    // To one who asks for the head alone the callee that breaks off has said all.
                    return Ok(false);
                }
                body.is_empty() && length == Some(self.body.len().to_string().as_bytes())
            }
            Kind::Trailers => body == self.body && field(TRAILER) == Some(self.id.to_string().as_bytes()),
            _ => body == self.body,
        };
        if is_right {
            return Ok(true);
        }
        Err(format!(
            "{} bytes that are not its answer ({:.40}): {:.40}",
            body.len(),
            String::from_utf8_lossy(&self.body),
            String::from_utf8_lossy(body)
        ))
    }
}
