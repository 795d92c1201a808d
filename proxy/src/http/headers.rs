//! Headers that concern one hop only, and those that a proxy adds (RFC 9110, 7.6).

use std::net::SocketAddr;

use http::{HeaderMap, HeaderName, HeaderValue, Version, header, request::Parts, response};

use super::present::{Field, Present};

/// What concerns one hop only, or may.
pub const HOP_BY_HOP: [HeaderName; 7] = [
    header::CONNECTION,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::TE,
    KEEP_ALIVE,
    PROXY_CONNECTION,
    HTTP2_SETTINGS,
];
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// `x-request-id`.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// `traceparent` (W3C Trace Context).
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// Whether a request asks to change the protocol, so that its `Upgrade` must reach the callee. That to HTTP/2 is left out (RFC 9113,
/// 3.1, has no use for it any more): all that followed would be bytes that no policy holds for.
pub fn is_upgrade(headers: &HeaderMap) -> bool {
    headers.contains_key(header::UPGRADE)
        && !headers.get_all(header::UPGRADE).iter().any(|value| has_token(value, "h2c"))
        && headers.get_all(header::CONNECTION).iter().any(|value| has_token(value, "upgrade"))
}

/// Bytes of a request's head as HTTP/2 counts them, but for its authority and scheme.
pub fn size(request: &Parts) -> usize {
    let path = request.uri.path_and_query().map_or(0, |path| path.as_str().len());
    fields_size(&request.headers) + path
}

/// Bytes of fields as HTTP/2 counts them (RFC 9113, 6.5.2: 32 more for each).
pub fn fields_size(fields: &HeaderMap) -> usize {
    fields.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum()
}

/// Makes the head of a request to `destination` fit to be sent on. `peer` is appended to `X-Forwarded-For`, where the
/// callee would otherwise not see it.
pub fn prepare_request(
    request: &mut Parts,
    present: Present,
    upgrade: bool,
    peer: Option<&HeaderValue>,
    destination: SocketAddr,
) {
    let http10 = request.version == Version::HTTP_10;
    if present.has(Field::HopByHop) {
        remove_hop_by_hop(&mut request.headers, upgrade);
    }
    if request.version != Version::HTTP_2 {
        // The proxy speaks its own version (RFC 9110, 2.5); callees keep connections open only from 1.1 on.
        request.version = Version::HTTP_11;
    }
    let via = match (request.version, http10) {
        (Version::HTTP_2, _) => "2 firebreak",
        (_, true) => "1.0 firebreak",
        (_, false) => "1.1 firebreak",
    };
    request.headers.append(header::VIA, HeaderValue::from_static(via));
    if let Some(peer) = peer {
        forwarded_for(&mut request.headers, peer);
    }
    if http10 && !request.headers.contains_key(header::HOST) {
        // HTTP/1.0 may do without, HTTP/1.1 may not (RFC 9112, 3.2). An address always is a valid value.
        let host = request.uri.authority().map_or_else(|| destination.to_string(), ToString::to_string);
        request.headers.extend(HeaderValue::try_from(host).ok().map(|host| (header::HOST, host)));
    }
}

/// Makes the head of a response fit to be sent back.
pub fn prepare_response(response: &mut response::Parts, upgrade: bool) {
    // Most heads have none, and to see that is cheaper than to look for each.
    if response.headers.keys().any(|name| HOP_BY_HOP.contains(name)) {
        remove_hop_by_hop(&mut response.headers, upgrade);
    }
    let via = match response.version {
        Version::HTTP_2 => "2 firebreak",
        Version::HTTP_10 => "1.0 firebreak",
        _ => "1.1 firebreak",
    };
    response.headers.append(header::VIA, HeaderValue::from_static(via));
    if response.version == Version::HTTP_10 {
        // As with requests: an old callee must not make the caller's connection an old one.
        response.version = Version::HTTP_11;
    }
}

/// The id by which two proxies recognise a request: its trace, or its request id.
pub fn correlation(headers: &HeaderMap) -> Option<&[u8]> {
    let trace = headers.get(TRACEPARENT).and_then(|value| value.as_bytes().get(3..35));
    trace.or_else(|| headers.get(X_REQUEST_ID).map(HeaderValue::as_bytes))
}

fn remove_hop_by_hop(headers: &mut HeaderMap, upgrade: bool) {
    if headers.get_all(header::CONNECTION).iter().any(|value| !is_plain(value)) {
        let named: Vec<_> = headers.get_all(header::CONNECTION).iter().cloned().collect();
        for named in &named {
            remove_named(headers, named);
        }
    }
    let upgrade = upgrade.then(|| headers.get(header::UPGRADE).cloned()).flatten();
    headers.remove(header::CONNECTION);
    headers.remove(KEEP_ALIVE);
    headers.remove(PROXY_CONNECTION);
    headers.remove(HTTP2_SETTINGS);
    headers.remove(header::TRANSFER_ENCODING);
    headers.remove(header::UPGRADE);
    if headers.get(header::TE).is_some_and(|value| !has_token(value, "trailers")) {
        headers.remove(header::TE);
    }
    if let Some(upgrade) = upgrade {
        headers.insert(header::UPGRADE, upgrade);
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    }
}

/// Whether `Connection` says nothing but what is removed anyway.
fn is_plain(value: &HeaderValue) -> bool {
    ["keep-alive", "close", "upgrade"].iter().any(|plain| value.as_bytes().eq_ignore_ascii_case(plain.as_bytes()))
}

/// Removes the headers that `Connection` names, except those without which the message would mean something else.
fn remove_named(headers: &mut HeaderMap, connection: &HeaderValue) {
    let Ok(names) = connection.to_str() else { return };
    for name in names.split(',').filter_map(|name| name.trim().parse::<HeaderName>().ok()) {
        if ![header::HOST, header::CONTENT_LENGTH, header::UPGRADE, header::TE].contains(&name) {
            headers.remove(name);
        }
    }
}

fn has_token(value: &HeaderValue, token: &str) -> bool {
    value.to_str().is_ok_and(|value| value.split(',').any(|part| part.trim().eq_ignore_ascii_case(token)))
}

fn forwarded_for(headers: &mut HeaderMap, peer: &HeaderValue) {
    let before = headers.get_all(X_FORWARDED_FOR).iter().map(HeaderValue::as_bytes);
    let list = before.chain([peer.as_bytes()]).collect::<Vec<_>>();
    let value = if list.len() == 1 { Ok(peer.clone()) } else { HeaderValue::from_bytes(&list.join(&b", "[..])) };
    // Valid values joined by a comma are a valid value.
    if let Ok(value) = value {
        headers.insert(X_FORWARDED_FOR, value);
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn prepared(headers: &[(&str, &str)], upgrade: bool) -> HeaderMap {
        let request = headers.iter().fold(Request::builder(), |builder, (name, value)| builder.header(*name, *value));
        let mut parts = request.body(()).unwrap().into_parts().0;
        let peer = HeaderValue::from_static("10.0.0.9");
        let present = Present::of(&parts.headers);
        prepare_request(&mut parts, present, upgrade, Some(&peer), SocketAddr::from(([10, 0, 0, 1], 80)));
        parts.headers
    }

    #[test]
    fn what_concerns_one_hop_stays_on_it() {
        let headers = prepared(
            &[
                ("connection", "keep-alive"),
                ("connection", "close, x-secret, content-length"),
                ("x-secret", "1"),
                ("content-length", "3"),
                ("keep-alive", "timeout=5"),
                ("transfer-encoding", "chunked"),
                ("te", "gzip"),
                ("upgrade", "h2c"),
                ("x-end-to-end", "1"),
            ],
            false,
        );
        let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["content-length", "via", "x-end-to-end", "x-forwarded-for"]);
    }

    #[test]
    fn an_upgrade_and_te_trailers_go_through() {
        let headers =
            prepared(&[("connection", "keep-alive, Upgrade"), ("upgrade", "websocket"), ("te", "trailers")], true);
        assert_eq!(headers[header::CONNECTION], "upgrade");
        assert_eq!(headers[header::UPGRADE], "websocket");
        assert_eq!(headers[header::TE], "trailers");
    }

    #[test]
    fn the_peer_is_appended_to_those_before() {
        let headers = prepared(&[("x-forwarded-for", "192.0.2.1"), ("x-forwarded-for", "192.0.2.2")], false);
        assert_eq!(headers[X_FORWARDED_FOR], "192.0.2.1, 192.0.2.2, 10.0.0.9");
        assert_eq!(headers[header::VIA], "1.1 firebreak");
    }

    #[test]
    fn the_trace_goes_before_the_request_id() {
        let trace = HeaderValue::from_static("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
        let mut headers = HeaderMap::from_iter([(X_REQUEST_ID, HeaderValue::from_static("r-1"))]);
        assert_eq!(correlation(&headers), Some(&b"r-1"[..]));
        headers.insert(TRACEPARENT, trace);
        assert_eq!(correlation(&headers), Some(&b"4bf92f3577b34da6a3ce929d0e0e4736"[..]));
    }
}
