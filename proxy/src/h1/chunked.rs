//! The chunked coding (RFC 9112, 7.1), bytes in and parts out.

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::MAX_FIELDS;

/// Most digits of a chunk's size.
const MAX_DIGITS: u32 = 16;
/// Most bytes of all chunks' extensions together. They mean nothing to anybody and are dropped.
const MAX_EXTENSIONS: usize = 16 * 1024;
/// Most bytes of trailers.
const MAX_TRAILERS: usize = 16 * 1024;

/// Bytes that are no chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadChunk {
    /// They are none.
    #[error("bytes that are no chunk")]
    Syntax,
    /// They are too many.
    #[error("a chunk's size, extensions or the trailers are too long")]
    TooLong,
}

/// What comes next.
#[derive(Debug, PartialEq, Eq)]
pub enum Part {
    /// A part of the body.
    Data(Bytes),
    /// The end, with trailers.
    Trailers(HeaderMap),
    /// The end.
    End,
}

/// How far a chunked body was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunks {
    state: State,
    extensions: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Digits of a size, of which there were so many.
    Size(u64, u32),
    /// White space after a size.
    Blank(u64),
    /// An extension, up to the end of its line.
    Extension(u64),
    /// The line feed after a size.
    SizeEnd(u64),
    /// Bytes of a chunk that are still to come.
    Data(u64),
    /// What ends a chunk: carriage return, line feed.
    DataEnd,
    DataFeed,
    /// What follows the last chunk.
    Trailers,
    Ended,
}

impl Default for Chunks {
    fn default() -> Self {
        Self { state: State::Size(0, 0), extensions: 0 }
    }
}

impl Chunks {
    /// Whether all of the body was read.
    pub fn is_ended(&self) -> bool {
        self.state == State::Ended
    }

    /// Takes what comes next out of `buffer`; `None` if that is not all there.
    ///
    /// # Errors
    /// When the bytes are no chunks. Nothing that follows means anything then.
    pub fn next(&mut self, buffer: &mut BytesMut) -> Result<Option<Part>, BadChunk> {
        loop {
            match self.state {
                State::Ended => return Ok(Some(Part::End)),
                State::Data(left) => {
                    if buffer.is_empty() {
                        return Ok(None);
                    }
                    let take = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
                    let data = buffer.split_to(take).freeze();
                    let left = left - take as u64;
                    self.state = if left == 0 { State::DataEnd } else { State::Data(left) };
                    // If the end is there too, it is known with the last byte.
                    self.skip_end(buffer);
                    return Ok(Some(Part::Data(data)));
                }
                State::Trailers => return self.trailers(buffer),
                _ => {
                    let Some(byte) = buffer.first().copied() else { return Ok(None) };
                    buffer.advance(1);
                    self.step(byte)?;
                }
            }
        }
    }

    fn step(&mut self, byte: u8) -> Result<(), BadChunk> {
        self.state = match (self.state, byte) {
            (State::Size(size, digits), _) if byte.is_ascii_hexdigit() => {
                if digits == MAX_DIGITS {
                    return Err(BadChunk::TooLong);
                }
                State::Size(size << 4 | u64::from(hex(byte)), digits + 1)
            }
            (State::Size(_, 0), _) => return Err(BadChunk::Syntax),
            (State::Size(size, _) | State::Blank(size) | State::Extension(size), b'\r') => State::SizeEnd(size),
            (State::Size(size, _) | State::Blank(size), b' ' | b'\t') => self.extension(State::Blank(size))?,
            (State::Size(size, _) | State::Blank(size), b';') => self.extension(State::Extension(size))?,
            // A line feed alone would end the line for some readers and not for others.
            (State::Extension(size), _) if byte != b'\n' => self.extension(State::Extension(size))?,
            (State::SizeEnd(0), b'\n') => State::Trailers,
            (State::SizeEnd(size), b'\n') => State::Data(size),
            (State::DataEnd, b'\r') => State::DataFeed,
            (State::DataFeed, b'\n') => State::Size(0, 0),
            _ => return Err(BadChunk::Syntax),
        };
        Ok(())
    }

    fn extension(&mut self, state: State) -> Result<State, BadChunk> {
        self.extensions += 1;
        if self.extensions > MAX_EXTENSIONS { Err(BadChunk::TooLong) } else { Ok(state) }
    }

    fn skip_end(&mut self, buffer: &mut BytesMut) {
        const END: &[u8] = b"\r\n0\r\n\r\n";
        if self.state == State::DataEnd && buffer.starts_with(END) {
            buffer.advance(END.len());
            self.state = State::Ended;
        }
    }

    fn trailers(&mut self, buffer: &mut BytesMut) -> Result<Option<Part>, BadChunk> {
        if buffer.starts_with(b"\r\n") {
            buffer.advance(2);
            self.state = State::Ended;
            return Ok(Some(Part::End));
        }
        let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
        let (length, map) = match httparse::parse_headers(buffer, &mut fields) {
            Ok(httparse::Status::Complete((length, fields))) => (length, trailers(fields)?),
            Ok(httparse::Status::Partial) if buffer.len() < MAX_TRAILERS => return Ok(None),
            Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders) => return Err(BadChunk::TooLong),
            Err(_) => return Err(BadChunk::Syntax),
        };
        // As in the lines of sizes: a line feed alone ends a line for some readers only.
        let lines = buffer[..length].split_inclusive(|byte| *byte == b'\n');
        if lines.into_iter().any(|line| !line.ends_with(b"\r\n")) {
            return Err(BadChunk::Syntax);
        }
        buffer.advance(length);
        self.state = State::Ended;
        Ok(Some(if map.is_empty() { Part::End } else { Part::Trailers(map) }))
    }
}

fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => (digit | 0x20) - b'a' + 10,
    }
}

fn trailers(fields: &[httparse::Header<'_>]) -> Result<HeaderMap, BadChunk> {
    let mut map = HeaderMap::with_capacity(fields.len());
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| BadChunk::Syntax)?;
        let value = HeaderValue::from_bytes(field.value).map_err(|_| BadChunk::Syntax)?;
        if !is_misplaced(&name) {
            map.append(name, value);
        }
    }
    Ok(map)
}

/// Fields that must not come in trailers, since by then it is too late for them (RFC 9110, 6.5.1).
fn is_misplaced(name: &HeaderName) -> bool {
    [
        header::CONTENT_LENGTH,
        header::TRANSFER_ENCODING,
        header::HOST,
        header::CONNECTION,
        header::UPGRADE,
        header::TE,
        header::TRAILER,
        header::CONTENT_ENCODING,
        header::CONTENT_TYPE,
        header::CONTENT_RANGE,
        header::AUTHORIZATION,
        header::PROXY_AUTHORIZATION,
        header::COOKIE,
        header::SET_COOKIE,
    ]
    .contains(name)
}

#[cfg(test)]
mod tests;
