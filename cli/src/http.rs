//! The little HTTP that the command line itself speaks: one request on one connection, and servers of a few lines.

use std::{convert::Infallible, future::Future, net::SocketAddr, time::Duration};

use http_body_util::{BodyExt, Empty, Full};
use hyper::{
    Request, Response, Uri,
    body::{Bytes, Incoming},
    client::conn,
    header::{HOST, HeaderMap},
    server,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{Instant, timeout},
};

/// What came back, and how long it took until the last byte was there.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) took: Duration,
}

/// Why nothing came back.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoAnswer {
    #[error("{0} is no URL that can be called: write http://HOST:PORT/PATH")]
    BadUrl(Uri),
    #[error("cannot connect to {to}: {error}")]
    Connect { to: String, error: std::io::Error },
    #[error("the connection ended without an answer: {0}")]
    Broken(#[from] hyper::Error),
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
}

impl Answer {
    /// The value of the header `Proxy-Status` (RFC 9209); empty where there is none.
    pub(crate) fn proxy_status(&self) -> &str {
        self.headers.get("proxy-status").and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// Why the proxy answered in the callee's place, if it did.
    pub(crate) fn reason(&self) -> Option<&str> {
        parameter(self.proxy_status(), "firebreak-reason")
    }
}

/// The value of a parameter of the header's first member. Values with a `;` in quotes are not ours.
fn parameter<'a>(header: &'a str, name: &str) -> Option<&'a str> {
    let parameters = header.split(',').next()?.split(';').skip(1);
    parameters
        .map(str::trim)
        .find_map(|parameter| Some(parameter.strip_prefix(name)?.strip_prefix('=')?.trim_matches('"')))
}

/// Sends a GET to `url` on a connection of its own and waits at most `patience` for the whole answer.
pub(crate) async fn get(url: &Uri, patience: Duration) -> Result<Answer, NoAnswer> {
    let host = url.host().ok_or_else(|| NoAnswer::BadUrl(url.clone()))?;
    let authority = url.authority().map(ToString::to_string).unwrap_or_default();
    let to = (host.trim_matches(['[', ']']), url.port_u16().unwrap_or(80));
    let path = url.path_and_query().map_or("/", |path| path.as_str());
    let request = Request::get(path).header(HOST, authority).body(Empty::<Bytes>::new());
    let request = request.map_err(|_| NoAnswer::BadUrl(url.clone()))?;
    let exchange = async {
        let connect = |error| NoAnswer::Connect { to: format!("{}:{}", to.0, to.1), error };
        let stream = TcpStream::connect(to).await.map_err(connect)?;
        exchange(stream, request).await
    };
    timeout(patience, exchange).await.unwrap_or(Err(NoAnswer::TimedOut(patience)))
}

async fn exchange(stream: TcpStream, request: Request<Empty<Bytes>>) -> Result<Answer, NoAnswer> {
    let began = Instant::now();
    let (mut sender, connection) = conn::http1::handshake(TokioIo::new(stream)).await?;
    let conversation = async {
        let (head, body) = sender.send_request(request).await?.into_parts();
        let body = body.collect().await?.to_bytes();
        Ok(Answer { status: head.status.as_u16(), headers: head.headers, body, took: began.elapsed() })
    };
    tokio::pin!(conversation, connection);
    tokio::select! {
        answer = &mut conversation => answer,
        ended = &mut connection => {
            ended?;
            conversation.await
        }
    }
}

/// Answers every request on `listener` with `handler`, until it is dropped.
pub(crate) async fn serve<H, F>(listener: TcpListener, handler: H) -> Infallible
where
    H: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
    F: Future<Output = Response<Full<Bytes>>> + Send + 'static,
{
    // Connections end with the set, so with the server.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                let handler = handler.clone();
                let service = service_fn(move |request| {
                    let answer = handler(request);
                    async move { Ok::<_, Infallible>(answer.await) }
                });
                connections.spawn(async move {
                    // A caller that goes away is the caller's affair.
                    let _ = server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// An answer without much in it.
pub(crate) fn answer(status: u16, text: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = hyper::StatusCode::from_u16(status).unwrap_or(hyper::StatusCode::INTERNAL_SERVER_ERROR);
    response
}

/// The URL of `path` at `address`.
pub(crate) fn url(address: SocketAddr, path: &str) -> Uri {
    let url = Uri::builder().scheme("http").authority(address.to_string()).path_and_query(path).build();
    // An address and a path that begins with a slash always make one.
    url.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str =
        r#"firebreak; error=http_response_timeout; firebreak-reason=attempt_timeout; firebreak-policy="shop/a""#;

    #[test]
    fn parameters_are_found_by_their_whole_name() {
        assert_eq!(parameter(STATUS, "firebreak-reason"), Some("attempt_timeout"));
        assert_eq!(parameter(STATUS, "firebreak-policy"), Some("shop/a"));
        assert_eq!(parameter(STATUS, "reason"), None);
        assert_eq!(parameter("", "firebreak-reason"), None);
    }

    #[tokio::test]
    async fn asks_and_answers() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let server = tokio::spawn(serve(listener, |request| async move {
            let mut response = answer(if request.uri().path() == "/a" { 200 } else { 503 }, "hello");
            response.headers_mut().insert("proxy-status", STATUS.parse().unwrap());
            response
        }));
        let found = get(&url(at, "/a"), Duration::from_secs(5)).await.unwrap();
        assert_eq!((found.status, found.reason()), (200, Some("attempt_timeout")));
        assert_eq!(get(&url(at, "/b"), Duration::from_secs(5)).await.unwrap().status, 503);
        server.abort();
        let _ = server.await;
        let gone = get(&url(at, "/a"), Duration::from_secs(5)).await.unwrap_err();
        assert!(matches!(gone, NoAnswer::Connect { .. }), "{gone}");
    }
}
