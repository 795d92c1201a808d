//! A connection with what was read from it and not used, and what is to be written to it.

use std::{
    cell::RefCell,
    io,
    pin::{Pin, pin},
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, Wake, Waker, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use super::{
    chunked::{Chunks, Part},
    framing::Framing,
    head::{self, HeadError},
};

/// What is read at once, and by those whose messages fill it.
const READ: usize = 8 * 1024;
const READ_LARGE: usize = 64 * 1024;

/// Parts of a body that are no longer than this are copied behind what is to be written before them.
const COPIED: usize = 4 * 1024;

/// How much of what comes next is read before its turn.
const AHEAD: usize = READ;

/// Above this much nothing is added to what is to be written.
const FULL: usize = 32 * 1024;

/// A connection that its messages' bodies hold too.
pub type Shared<S> = Rc<RefCell<Conn<S>>>;

/// What a connection is made of.
pub trait Stream: AsyncRead + AsyncWrite + Unpin {
    /// Ready when there may be something to read, or the end; else the waker is woken when there is. Takes no buffer and makes no
    /// system call.
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()>;
}

impl Stream for TcpStream {
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        // An error is for whoever reads.
        self.poll_read_ready(cx).map(drop)
    }
}

/// A connection.
#[derive(Debug)]
pub struct Conn<S> {
    stream: S,
    input: BytesMut,
    read_size: usize,
    /// The other side has said all.
    ended: bool,
    /// Bytes of the input that were searched for the end of a head.
    seen: usize,
    /// How much was there when it was last looked whether it could become a head.
    checked: usize,
    reading: Reading,
    /// Who wants to know when that has ended.
    awaiting: Option<Waker>,
    /// Who waits for more of it. The stream wakes one reader only, and whoever looks if the other side is gone reads too.
    reader: Option<Waker>,
    /// An answer that asks for the body (RFC 9110, 10.1.1) is to be written before it is read.
    owes_continue: bool,
    out: BytesMut,
    /// What is to be written after `out`, and what after that.
    large: Bytes,
    after: &'static [u8],
    written: u64,
}

/// Two tasks that wait for the same.
struct Both(Waker, Waker);

impl Wake for Both {
    fn wake(self: Arc<Self>) {
        self.0.wake_by_ref();
        self.1.wake_by_ref();
    }
}

/// The body that is being read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    Length(u64),
    Chunks(Chunks),
    UntilClose,
    Ended,
    /// It broke off, and nothing that follows means anything.
    Broken,
}

/// What else can go wrong with a body.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The connection failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It ended before the body.
    #[error("the connection ended before the body")]
    Incomplete,
    /// The bytes are no chunks.
    #[error(transparent)]
    Chunk(#[from] super::chunked::BadChunk),
}

impl<S: Stream> Conn<S> {
    /// Around a stream from which nothing was read.
    pub fn new(stream: S) -> Self {
        Self {
            stream,
            input: BytesMut::new(),
            read_size: READ,
            ended: false,
            seen: 0,
            checked: 0,
            reading: Reading::Ended,
            awaiting: None,
            reader: None,
            owes_continue: false,
            out: BytesMut::new(),
            large: Bytes::new(),
            after: &[],
            written: 0,
        }
    }

    /// The stream, and what was read from it and not used.
    pub fn into_parts(self) -> (S, BytesMut) {
        (self.stream, self.input)
    }

    /// The stream.
    pub fn stream(&self) -> &S {
        &self.stream
    }

    /// Whether nothing was read that was not used.
    pub fn is_drained(&self) -> bool {
        self.input.is_empty()
    }

    /// Whether all that was to be written was.
    pub fn is_flushed(&self) -> bool {
        self.out.is_empty() && self.large.is_empty() && self.after.is_empty()
    }

    /// Bytes that were written so far.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Whether all of the message that is being read was read.
    pub fn is_read(&self) -> bool {
        self.reading == Reading::Ended
    }

    /// Whether its body broke off: the connection can carry no other.
    pub fn is_broken(&self) -> bool {
        self.reading == Reading::Broken
    }

    /// Nobody will be asked for a body any more. Whether somebody waits to be.
    pub fn waive_continue(&mut self) -> bool {
        std::mem::take(&mut self.owes_continue)
    }

    /// Bytes of its body that are still to come, where that is known.
    pub fn left(&self) -> Option<u64> {
        match self.reading {
            Reading::Ended => Some(0),
            Reading::Length(left) => Some(left),
            Reading::Chunks(_) | Reading::UntilClose | Reading::Broken => None,
        }
    }

    /// Begins to read a body.
    pub fn begin_body(&mut self, framing: Framing, owes_continue: bool) {
        (self.owes_continue, self.reader) = (owes_continue, None);
        self.reading = match framing {
            Framing::None => Reading::Ended,
            Framing::Length(length) => Reading::Length(length),
            Framing::Chunked => Reading::Chunks(Chunks::default()),
            Framing::UntilClose => Reading::UntilClose,
        };
    }

    /// Reads what there is; 0 at the end.
    ///
    /// # Errors
    /// Those of the stream.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.ended {
            return Poll::Ready(Ok(0));
        }
        // A buffer only for what is there.
        ready!(self.stream.poll_readable(cx));
        self.input.reserve(self.read_size);
        let read = ready!(pin!(self.stream.read_buf(&mut self.input)).poll(cx));
        self.ended = !matches!(read, Ok(1..));
        if read.as_ref().is_ok_and(|read| *read >= self.read_size) {
            self.read_size = READ_LARGE;
        }
        Poll::Ready(read)
    }

    /// The next head's bytes; `None` at the end of the connection.
    ///
    /// # Errors
    /// When it is too large, or none by what `check` says of its beginning; the connection's own errors are its end.
    pub fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        check: impl Fn(&[u8]) -> Result<(), HeadError>,
    ) -> Poll<Result<Option<Bytes>, HeadError>> {
        self.settle();
        loop {
            if let Some(head) = head::take(&mut self.input, &mut self.seen)? {
                self.checked = 0;
                return Poll::Ready(Ok(Some(head)));
            }
            // Each time when there is twice as much: one who sends byte by byte does not make much of it.
            if self.input.len() > 2 * self.checked {
                self.checked = self.input.len();
                check(&self.input)?;
            }
            if !matches!(ready!(self.poll_fill(cx)), Ok(1..)) {
                return Poll::Ready(Ok(None));
            }
        }
    }

    /// The next part of the body that is being read.
    ///
    /// # Errors
    /// Why there is no more.
    pub fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<Result<Part, ReadError>> {
        let Poll::Ready(part) = self.poll_next_part(cx) else {
            match &mut self.reader {
                Some(reader) => reader.clone_from(cx.waker()),
                None => self.reader = Some(cx.waker().clone()),
            }
            return Poll::Pending;
        };
        self.reader = None;
        if part.is_err() {
            self.reading = Reading::Broken;
        }
        if matches!(self.reading, Reading::Ended | Reading::Broken) {
            self.awaiting.take().into_iter().for_each(Waker::wake);
        }
        Poll::Ready(part)
    }

    fn poll_next_part(&mut self, cx: &mut Context<'_>) -> Poll<Result<Part, ReadError>> {
        loop {
            if let Some(part) = self.take_part()? {
                return Poll::Ready(Ok(part));
            }
            if std::mem::take(&mut self.owes_continue) {
                self.put(b"HTTP/1.1 100 Continue\r\n\r\n");
                // What cannot be written now goes with the response.
                let _ = self.poll_flush(cx)?;
            }
            if ready!(self.poll_fill(cx))? == 0 {
                if self.reading != Reading::UntilClose {
                    return Poll::Ready(Err(ReadError::Incomplete));
                }
                self.reading = Reading::Ended;
            }
        }
    }

    fn take_part(&mut self) -> Result<Option<Part>, ReadError> {
        match &mut self.reading {
            Reading::Ended => Ok(Some(Part::End)),
            Reading::Broken => Err(ReadError::Incomplete),
            Reading::Chunks(chunks) => {
                let part = chunks.next(&mut self.input)?;
                if chunks.is_ended() {
                    self.reading = Reading::Ended;
                }
                Ok(part)
            }
            Reading::Length(_) | Reading::UntilClose if self.input.is_empty() => Ok(None),
            Reading::UntilClose => Ok(Some(Part::Data(self.input.split().freeze()))),
            Reading::Length(left) => {
                let take = usize::try_from(*left).unwrap_or(usize::MAX).min(self.input.len());
                *left -= take as u64;
                if *left == 0 {
                    self.reading = Reading::Ended;
                }
                Ok(Some(Part::Data(self.input.split_to(take).freeze())))
            }
        }
    }

    /// Whether the other side is gone, or says what nobody asked for, while it is to be quiet. Its bytes are kept.
    pub fn poll_unasked(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.input.is_empty() { self.poll_fill(cx).map(drop) } else { Poll::Ready(()) }
    }

    /// Whether the other side has ended, or the connection is broken, while a message is not over. Reads ahead a little to see that,
    /// but not into the message after it. Another task that waits for the body is woken by what comes.
    pub fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self.reader.as_ref().filter(|reader| !reader.will_wake(cx.waker())) {
            None => self.poll_ahead(cx),
            Some(reader) => {
                let both = Waker::from(Arc::new(Both(reader.clone(), cx.waker().clone())));
                self.poll_ahead(&mut Context::from_waker(&both))
            }
        }
    }

    fn poll_ahead(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let ahead = if self.is_read() { 1 } else { AHEAD };
        while !self.ended && self.input.len() < ahead {
            // An error is an end.
            let _ = ready!(self.poll_fill(cx));
            self.reader.take().into_iter().for_each(Waker::wake);
        }
        if self.ended && (self.input.is_empty() || !self.is_read()) { Poll::Ready(()) } else { Poll::Pending }
    }

    /// The same while another task may be reading the body: looks only once that has come to its end.
    pub fn poll_gone_after_body(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if matches!(self.reading, Reading::Ended | Reading::Broken) {
            return self.poll_gone(cx);
        }
        self.awaiting = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Gives up large buffers that are empty: a message has ended.
    pub fn settle(&mut self) {
        if self.read_size > READ && self.input.is_empty() {
            (self.input, self.read_size) = (BytesMut::new(), READ);
        }
        if self.out.is_empty() && self.out.capacity() > FULL {
            self.out = BytesMut::new();
        }
    }

    /// What is to be written, to add to it.
    pub fn out(&mut self) -> &mut BytesMut {
        &mut self.out
    }

    /// Adds to what is to be written.
    pub fn put(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    /// Adds to what is to be written, and `after` it. What is long is not copied, and the connection is full until it was written.
    pub fn put_shared(&mut self, bytes: Bytes, after: &'static [u8]) {
        if bytes.len() <= COPIED {
            self.put(&bytes);
            self.put(after);
        } else {
            (self.large, self.after) = (bytes, after);
        }
    }

    /// Whether something must be written before more is added.
    pub fn is_full(&self) -> bool {
        self.out.len() >= FULL || !self.large.is_empty() || !self.after.is_empty()
    }

    /// Writes all that is to be written.
    ///
    /// # Errors
    /// Those of the stream.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let stream = Pin::new(&mut self.stream);
            let written = if self.large.is_empty() && self.after.is_empty() {
                if self.out.is_empty() {
                    return Poll::Ready(Ok(()));
                }
                ready!(stream.poll_write(cx, &self.out))?
            } else {
                let parts = [&self.out[..], &self.large, self.after].map(io::IoSlice::new);
                ready!(stream.poll_write_vectored(cx, &parts[usize::from(self.out.is_empty())..]))?
            };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.wrote(written);
        }
    }

    fn wrote(&mut self, bytes: usize) {
        self.written += bytes as u64;
        let of_out = bytes.min(self.out.len());
        self.out.advance(of_out);
        let of_large = (bytes - of_out).min(self.large.len());
        self.large.advance(of_large);
        self.after = &self.after[bytes - of_out - of_large..];
    }

    /// Says that no more will be written.
    ///
    /// # Errors
    /// Those of the stream.
    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    /// Forgets what was read and not used.
    pub fn discard(&mut self) {
        self.input.clear();
    }
}

/// A connection that carries no messages any more, but bytes. What was read and not used comes first.
#[derive(Debug)]
pub struct Tunnel<S>(pub Shared<S>);

impl<S: AsyncRead + Unpin> AsyncRead for Tunnel<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut conn = self.0.borrow_mut();
        if conn.input.is_empty() {
            conn.input = BytesMut::new();
            return Pin::new(&mut conn.stream).poll_read(cx, buf);
        }
        let take = conn.input.len().min(buf.remaining());
        buf.put_slice(&conn.input.split_to(take));
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Tunnel<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0.borrow_mut().stream).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.borrow_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.borrow_mut().stream).poll_shutdown(cx)
    }
}
