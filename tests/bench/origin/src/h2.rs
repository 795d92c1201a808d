//! HTTP/2, by a library.

use std::{convert::Infallible, rc::Rc};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, task::spawn_local};

use crate::site::{HEADERS, Site};

/// As the proxies: neither bodies nor streams are to wait for this end.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
const STREAMS: u32 = 2048;

#[derive(Clone, Copy)]
struct Local;

impl<F: Future<Output: 'static> + 'static> hyper::rt::Executor<F> for Local {
    fn execute(&self, future: F) {
        spawn_local(future);
    }
}

/// Serves a connection to its end.
pub(crate) async fn serve(stream: TcpStream, site: Rc<Site>) {
    site.connected();
    let service = service_fn(move |request| {
        let site = Rc::clone(&site);
        async move { answer(request, &site).await }
    });
    let mut builder = http2::Builder::new(Local);
    builder
        .auto_date_header(false)
        .max_concurrent_streams(STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW);
    // How it ended is the proxy's affair, which is what is measured.
    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(request: Request<Incoming>, site: &Site) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, mut body) = request.into_parts();
    while let Some(Ok(_)) = body.frame().await {}
    let Some(answer) = site.answer(head.uri.path()) else { return std::future::pending().await };
    let mut response = Response::new(Full::new(answer.body));
    *response.status_mut() = http::StatusCode::from_u16(answer.status).unwrap_or_default();
    response.headers_mut().extend(
        HEADERS.map(|(name, value)| (http::HeaderName::from_static(name), http::HeaderValue::from_static(value))),
    );
    Ok(response)
}
