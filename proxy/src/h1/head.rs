//! Heads of messages: read from bytes, and written (RFC 9112, 2 to 5).

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, Version, header, request, response};
use memchr::memchr;

use super::{
    MAX_FIELDS, MAX_HEAD,
    framing::{self, Ambiguous, Framing},
    spelling::Spelling,
};

/// A head that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// It is none.
    #[error("bytes that are no head of a message")]
    Syntax,
    /// It has too many bytes or fields.
    #[error("a head of more than {MAX_HEAD} bytes or {MAX_FIELDS} fields")]
    TooLarge,
}

/// The head of a request.
#[derive(Debug)]
pub struct RequestHead {
    /// What it says.
    pub parts: request::Parts,
    /// How it is spelled.
    pub spelling: Spelling,
    /// Where the body ends.
    pub framing: Framing,
    /// Whether its connection can carry another.
    pub persistent: bool,
    /// Whether its caller waits to be asked for the body (RFC 9110, 10.1.1).
    pub expects: bool,
}

/// The head of a response.
#[derive(Debug)]
pub struct ResponseHead {
    /// What it says.
    pub parts: response::Parts,
    /// How it is spelled.
    pub spelling: Spelling,
    /// Where the body ends.
    pub framing: Framing,
    /// Whether its connection can carry another.
    pub persistent: bool,
}

/// Which fields a head has of those that say how it is to be read: noted while they pass, so that they are looked for only where
/// there are some.
#[derive(Debug, Default)]
struct Said {
    hosts: u32,
    /// One that lists several counts as several.
    lengths: u32,
    coding: bool,
    connection: bool,
    expectation: bool,
}

impl Said {
    fn note(&mut self, name: &HeaderName, value: &HeaderValue) {
        match *name {
            header::HOST => self.hosts += 1,
            header::CONTENT_LENGTH => self.lengths += 1 + u32::from(value.as_bytes().contains(&b',')),
            header::TRANSFER_ENCODING => self.coding = true,
            header::CONNECTION => self.connection = true,
            header::EXPECT => self.expectation = true,
            _ => {}
        }
    }

    fn frames(&self) -> bool {
        self.lengths > 0 || self.coding
    }

    /// A length that is said several times, and always the same, goes on once.
    fn length_once(&self, headers: &mut HeaderMap) {
        if self.lengths > 1
            && let Some(said) = headers.get(header::CONTENT_LENGTH)
        {
            let first = said.as_bytes().split(|byte| *byte == b',').next().unwrap_or_default().trim_ascii();
            // A part of a valid value is one.
            if let Ok(first) = HeaderValue::from_bytes(first) {
                headers.insert(header::CONTENT_LENGTH, first);
            }
        }
    }

    fn persistent(&self, version: Version, headers: &HeaderMap) -> bool {
        if self.connection { framing::is_persistent(version, headers) } else { version == Version::HTTP_11 }
    }
}

/// Takes a head's bytes out of `buffer`, which `seen` bytes of were searched for its end before; `None` if it is not all there.
///
/// # Errors
/// When it is too large.
pub fn take(buffer: &mut BytesMut, seen: &mut usize) -> Result<Option<Bytes>, HeadError> {
    // Empty lines before a head mean nothing (RFC 9112, 2.2).
    while *seen == 0 && (buffer.starts_with(b"\r\n") || buffer.starts_with(b"\n")) {
        buffer.advance(if buffer[0] == b'\r' { 2 } else { 1 });
    }
    match end(buffer, *seen) {
        Some(end) if end <= MAX_HEAD => {
            *seen = 0;
            Ok(Some(buffer.split_to(end).freeze()))
        }
        None if buffer.len() <= MAX_HEAD => {
            // The end may have begun.
            *seen = buffer.len().saturating_sub(3);
            Ok(None)
        }
        _ => Err(HeadError::TooLarge),
    }
}

/// Where the empty line ends that ends a head.
fn end(bytes: &[u8], seen: usize) -> Option<usize> {
    let mut from = seen;
    loop {
        let feed = from + memchr(b'\n', bytes.get(from..)?)?;
        match bytes.get(feed + 1..)? {
            [b'\n', ..] => return Some(feed + 2),
            [b'\r', b'\n', ..] => return Some(feed + 3),
            _ => from = feed + 1,
        }
    }
}

/// Whether bytes that are not a whole head could become that of a request.
///
/// # Errors
/// When they could not.
pub fn could_be_request(bytes: &[u8]) -> Result<(), HeadError> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    httparse::Request::new(&mut fields).parse(bytes).map(drop).map_err(HeadError::from)
}

/// Whether bytes that are not a whole head could become that of a response.
///
/// # Errors
/// When they could not.
pub fn could_be_response(bytes: &[u8]) -> Result<(), HeadError> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    httparse::Response::new(&mut fields).parse(bytes).map(drop).map_err(HeadError::from)
}

/// Reads the head of a request.
///
/// # Errors
/// When it is none, or readers could disagree about it.
pub fn request(bytes: &Bytes) -> Result<RequestHead, HeadError> {
    let mut fields = [const { std::mem::MaybeUninit::uninit() }; MAX_FIELDS];
    let mut parsed = httparse::Request::new(&mut []);
    complete(&parsed.parse_with_uninit_headers(bytes, &mut fields)?)?;
    let (method, target) = (parsed.method.unwrap_or_default(), parsed.path.unwrap_or_default());
    let (mut parts, ()) = http::Request::new(()).into_parts();
    parts.method = Method::from_bytes(method.as_bytes()).map_err(|_| HeadError::Syntax)?;
    parts.uri = Uri::from_maybe_shared(bytes.slice_ref(target.as_bytes())).map_err(|_| HeadError::Syntax)?;
    parts.version = version(parsed.version);
    let (headers, spelling, said) = map(bytes, parsed.headers, 3)?;
    parts.headers = headers;
    // A request names its host once (RFC 9112, 3.2); only those of HTTP/1.0 need not.
    if said.hosts > 1 || said.hosts == 0 && parts.version == Version::HTTP_11 {
        return Err(HeadError::Syntax);
    }
    let framing = if said.frames() { framing::of_request(parts.version, &parts.headers)? } else { Framing::None };
    said.length_once(&mut parts.headers);
    name_host(&mut parts)?;
    let persistent = said.persistent(parts.version, &parts.headers);
    let expects = said.expectation && parts.version == Version::HTTP_11 && expects_continue(&parts.headers);
    Ok(RequestHead { parts, spelling, framing, persistent, expects })
}

/// Reads the head of the response to a request with `method`.
///
/// # Errors
/// When it is none, or readers could disagree about it.
pub fn response(bytes: &Bytes, method: &Method) -> Result<ResponseHead, HeadError> {
    let mut fields = [const { std::mem::MaybeUninit::uninit() }; MAX_FIELDS];
    let mut parsed = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    complete(&config.parse_response_with_uninit_headers(&mut parsed, bytes, &mut fields)?)?;
    let (mut parts, ()) = http::Response::new(()).into_parts();
    parts.status = StatusCode::from_u16(parsed.code.unwrap_or_default()).map_err(|_| HeadError::Syntax)?;
    parts.version = version(parsed.version);
    let (headers, mut spelling, said) = map(bytes, parsed.headers, 1)?;
    parts.headers = headers;
    let phrase = parsed.reason.filter(|phrase| Some(*phrase) != parts.status.canonical_reason());
    spelling.phrase = phrase.map(|phrase| bytes.slice_ref(phrase.as_bytes()));
    let framing = framing::of_response(method, parts.status, &mut parts.headers)?;
    said.length_once(&mut parts.headers);
    // Whoever says a length and a coding may mean the other one, one that says a coding in HTTP/1.0 may not know what it is
    // (RFC 9112, 6.1), and one that speaks of a body where there is none may send it.
    let is_clear = !said.coding || said.lengths == 0 && parts.version == Version::HTTP_11;
    let is_empty = parts.status != StatusCode::NO_CONTENT || !said.frames() || says_zero(&parts.headers);
    let goes_on = framing != Framing::UntilClose && said.persistent(parts.version, &parts.headers);
    let persistent = is_clear && is_empty && goes_on;
    Ok(ResponseHead { parts, spelling, framing, persistent })
}

fn complete(status: &httparse::Status<usize>) -> Result<(), HeadError> {
    if status.is_partial() { Err(HeadError::Syntax) } else { Ok(()) }
}

fn version(minor: Option<u8>) -> Version {
    if minor == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 }
}

/// Fields of a head, with room for so many more that are `added` on the way.
fn map(bytes: &Bytes, fields: &[httparse::Header<'_>], added: usize) -> Result<(HeaderMap, Spelling, Said), HeadError> {
    let (mut headers, mut said) = (HeaderMap::with_capacity(fields.len() + added), Said::default());
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| HeadError::Syntax)?;
        let value = HeaderValue::from_maybe_shared(bytes.slice_ref(field.value)).map_err(|_| HeadError::Syntax)?;
        said.note(&name, &value);
        headers.append(name, value);
    }
    Ok((headers, Spelling::of(bytes, fields.iter().map(|field| field.name)), said))
}

fn says_zero(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_LENGTH).is_some_and(|length| length.as_bytes() == b"0")
}

/// A target that names a host is what counts (RFC 9112, 3.2.2). A host is a name or an address, with a port.
fn name_host(parts: &mut request::Parts) -> Result<(), HeadError> {
    if let Some(authority) = parts.uri.authority().filter(|_| parts.method != Method::CONNECT) {
        let host = HeaderValue::from_str(authority.as_str()).map_err(|_| HeadError::Syntax)?;
        parts.headers.insert(header::HOST, host);
    }
    let host = parts.headers.get(header::HOST).map_or(&b""[..], HeaderValue::as_bytes);
    let is_foreign =
        |byte: &u8| matches!(byte, b' ' | b'\t' | b',' | b'/' | b'\\' | b'?' | b'#' | b'@' | b'<' | b'>' | b'"');
    if host.iter().any(is_foreign) { Err(HeadError::Syntax) } else { Ok(()) }
}

fn expects_continue(headers: &HeaderMap) -> bool {
    headers.get(header::EXPECT).is_some_and(|expected| expected.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

/// Writes the head of a request.
pub fn write_request(parts: &request::Parts, spelling: &Spelling, framing: Framing, out: &mut BytesMut) {
    out.reserve(256);
    put(out, &[parts.method.as_str().as_bytes(), b" "]);
    write_target(parts, out);
    put(out, &[b" HTTP/1.1\r\n"]);
    write_fields(&parts.headers, spelling, framing, out);
    put(out, &[b"\r\n"]);
}

fn write_target(parts: &request::Parts, out: &mut BytesMut) {
    let uri = &parts.uri;
    match (uri.scheme_str(), uri.authority()) {
        (None, Some(authority)) => put(out, &[authority.as_str().as_bytes()]),
        (Some(scheme), Some(authority)) => {
            put(out, &[scheme.as_bytes(), b"://", authority.as_str().as_bytes()]);
            put(out, &[uri.path_and_query().map_or("/", |path| path.as_str()).as_bytes()]);
        }
        _ => put(out, &[uri.path_and_query().map_or("/", |path| path.as_str()).as_bytes()]),
    }
}

/// Writes the head of a response to a request of `version`, after which its connection ends unless it is `persistent`.
pub fn write_response(
    parts: &response::Parts,
    spelling: &Spelling,
    framing: Framing,
    version: Version,
    persistent: bool,
    out: &mut BytesMut,
) {
    out.reserve(256);
    let is_old = version == Version::HTTP_10;
    let phrase = spelling.phrase.as_deref().or(parts.status.canonical_reason().map(str::as_bytes)).unwrap_or_default();
    put(
        out,
        &[if is_old { b"HTTP/1.0 " } else { b"HTTP/1.1 " }, parts.status.as_str().as_bytes(), b" ", phrase, b"\r\n"],
    );
    write_fields(&parts.headers, spelling, framing, out);
    match (persistent, is_old) {
        (false, false) => put(out, &[b"connection: close\r\n"]),
        (true, true) => put(out, &[b"connection: keep-alive\r\n"]),
        _ => {}
    }
    put(out, &[b"\r\n"]);
}

fn write_fields(headers: &HeaderMap, spelling: &Spelling, framing: Framing, out: &mut BytesMut) {
    let mut speller = spelling.speller();
    for (name, value) in headers {
        put(out, &[speller.spell(name), b": ", value.as_bytes(), b"\r\n"]);
    }
    match framing {
        Framing::Chunked => put(out, &[b"transfer-encoding: chunked\r\n"]),
        Framing::Length(length) if !headers.contains_key(header::CONTENT_LENGTH) => {
            put(out, &[b"content-length: ", HeaderValue::from(length).as_bytes(), b"\r\n"]);
        }
        Framing::Length(_) | Framing::None | Framing::UntilClose => {}
    }
}

fn put(out: &mut BytesMut, parts: &[&[u8]]) {
    for part in parts {
        out.extend_from_slice(part);
    }
}

impl From<httparse::Error> for HeadError {
    fn from(error: httparse::Error) -> Self {
        if error == httparse::Error::TooManyHeaders { Self::TooLarge } else { Self::Syntax }
    }
}

impl From<Ambiguous> for HeadError {
    fn from(_: Ambiguous) -> Self {
        Self::Syntax
    }
}

#[cfg(test)]
mod tests;
