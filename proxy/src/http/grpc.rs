//! gRPC over HTTP/2: recognised by its content type, answered in its own words.
//!
//! A gRPC client that gets a bare 502, 503 or 504 reads UNAVAILABLE, "please retry" (gRPC's HTTP status mapping), so a
//! time-out or a limit answered that way would invite the very load it wants to keep away. The proxy answers with a real
//! `grpc-status` in a trailers-only response.

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

/// `grpc-status`.
pub const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
/// `grpc-message`.
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
/// Content type of a gRPC response.
pub const CONTENT_TYPE: HeaderValue = HeaderValue::from_static("application/grpc");

/// Whether a message is gRPC: `application/grpc`, alone or with `+proto`, `+json` or parameters. `application/grpc-web` is
/// another protocol.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    let value = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    value
        .and_then(|value| value.strip_prefix(b"application/grpc"))
        .is_some_and(|rest| rest.first().is_none_or(|next| matches!(next, b'+' | b';' | b' ')))
}

/// The status that headers or trailers carry.
pub fn status(headers: &HeaderMap) -> Option<u8> {
    headers.get(GRPC_STATUS)?.to_str().ok()?.parse().ok()
}

/// Says how a call ended.
pub fn tell(headers: &mut HeaderMap, status: u8, message: &'static str) {
    headers.insert(GRPC_STATUS, HeaderValue::from(u16::from(status)));
    headers.insert(GRPC_MESSAGE, HeaderValue::from_static(message));
}

/// Whether a status is the server's failure, as OpenTelemetry's conventions for gRPC servers have it: UNKNOWN,
/// DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS.
pub fn is_server_error(status: u8) -> bool {
    matches!(status, 2 | 4 | 12..=15)
}

/// The gRPC status that stands for an HTTP status. Unlike a client's reading of a bare response, limits and time-outs keep
/// their meaning.
pub fn from_http(status: StatusCode) -> u8 {
    match status.as_u16() {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        408 | 504 => 4,
        409 => 10,
        429 => 8,
        499 => 1,
        502 | 503 => 14,
        _ => 2,
    }
}

/// The HTTP status that stands for a gRPC status (the mapping of google.rpc.Code).
pub fn to_http(status: u8) -> StatusCode {
    match status {
        1 => StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST),
        3 | 9 | 11 => StatusCode::BAD_REQUEST,
        4 => StatusCode::GATEWAY_TIMEOUT,
        5 => StatusCode::NOT_FOUND,
        6 | 10 => StatusCode::CONFLICT,
        7 => StatusCode::FORBIDDEN,
        8 => StatusCode::TOO_MANY_REQUESTS,
        12 => StatusCode::NOT_IMPLEMENTED,
        14 => StatusCode::SERVICE_UNAVAILABLE,
        16 => StatusCode::UNAUTHORIZED,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_is_told_by_its_content_type() {
        for (value, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc;charset=utf-8", true),
            ("application/grpc-web", false),
            ("application/json", false),
        ] {
            let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static(value))]);
            assert_eq!(is_grpc(&headers), expected, "{value}");
        }
        assert!(!is_grpc(&HeaderMap::new()));
    }

    #[test]
    fn an_injected_status_means_the_same_in_both_protocols() {
        for status in [401, 403, 409, 429, 499, 503, 504] {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(to_http(from_http(status)), status);
        }
    }
}
