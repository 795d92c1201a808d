//! Bytes both ways until both sides are done, or nothing has moved for too long.
//!
//! A direction has a buffer only while it has something to pass on, and a larger one once it has filled the small one: a
//! connection that rests costs nothing here, and a long transfer needs a quarter of the system calls.

use std::{
    future::poll_fn,
    io,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite},
    time::{Instant, timeout_at},
};

/// Buffer of a direction, and of one that fills it.
const BUFFER: usize = 16 * 1024;
const LARGE: usize = 64 * 1024;

/// How a relay ended.
#[derive(Debug)]
pub enum End {
    /// Both sides closed.
    Closed,
    /// One side broke.
    Broken(io::Error),
    /// Nothing moved for the idle time.
    Idle,
}

/// One direction.
#[derive(Debug)]
struct Way {
    buffer: BytesMut,
    size: usize,
    bytes: u64,
    last: Instant,
    state: WayState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WayState {
    Open,
    /// One side has nothing more to say; the other has not been told.
    Ending,
    Ended,
}

/// Copies both ways, passing on each side's end. Returns how it ended and the bytes that were moved.
pub async fn relay<A, B>(mut caller: A, mut callee: B, idle: Option<Duration>) -> (End, u64)
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let (mut there, mut back) = (Way::new(), Way::new());
    let end = loop {
        let until = idle.map(|idle| (there.last.max(back.last) + idle, idle));
        let both = poll_fn(|cx| {
            let there = there.poll(&mut caller, &mut callee, cx)?;
            let back = back.poll(&mut callee, &mut caller, cx)?;
            if there.is_ready() && back.is_ready() { Poll::Ready(Ok(())) } else { Poll::Pending }
        });
        let done = match until {
            None => both.await,
            Some((until, idle)) => match timeout_at(until, both).await {
                Ok(done) => done,
                // Bytes have moved since; the silence begins anew.
                Err(_) if there.last.max(back.last) + idle > until => continue,
                Err(_) => break End::Idle,
            },
        };
        break done.map_or_else(End::Broken, |()| End::Closed);
    };
    (end, there.bytes + back.bytes)
}

impl Way {
    fn new() -> Self {
        Self { buffer: BytesMut::new(), size: BUFFER, bytes: 0, last: Instant::now(), state: WayState::Open }
    }

    /// Passes on what there is; ready when this direction has ended.
    fn poll(
        &mut self,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            while self.buffer.has_remaining() {
                let written = ready!(Pin::new(&mut *to).poll_write(cx, &self.buffer))?;
                if written == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                self.buffer.advance(written);
            }
            match self.state {
                WayState::Ended => return Poll::Ready(Ok(())),
                WayState::Ending => {
                    ready!(Pin::new(&mut *to).poll_shutdown(cx))?;
                    self.state = WayState::Ended;
                }
                WayState::Open => match self.read(from, cx) {
                    Poll::Ready(read) => read?,
                    Poll::Pending => {
                        // What the other side still holds back goes out before the wait.
                        if let Poll::Ready(Err(error)) = Pin::new(to).poll_flush(cx) {
                            return Poll::Ready(Err(error));
                        }
                        return Poll::Pending;
                    }
                },
            }
        }
    }

    fn read(&mut self, from: &mut (impl AsyncRead + Unpin), cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.buffer.reserve(self.size);
        let poll = pin!(from.read_buf(&mut self.buffer)).poll(cx);
        match poll {
            Poll::Pending => {
                self.buffer = BytesMut::new();
                Poll::Pending
            }
            Poll::Ready(Ok(0)) => {
                (self.buffer, self.state) = (BytesMut::new(), WayState::Ending);
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Ok(read)) => {
                self.bytes += read as u64;
                self.last = Instant::now();
                self.size = if read >= self.size { LARGE } else { self.size };
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn silence_ends_it_and_bytes_keep_it_alive() {
        let (mut caller, near) = duplex(64);
        let (far, mut callee) = duplex(64);
        let started = Instant::now();
        let relay = relay(near, far, Some(Duration::from_secs(10)));
        let talk = async {
            for _ in 0..3 {
                tokio::time::sleep(Duration::from_secs(8)).await;
                caller.write_all(b"hi").await.unwrap();
                callee.read_exact(&mut [0; 2]).await.unwrap();
            }
            std::future::pending::<()>().await;
        };
        let (end, bytes) = tokio::select! { end = relay => end, () = talk => unreachable!() };
        assert!(matches!(end, End::Idle));
        assert_eq!((bytes, started.elapsed()), (6, Duration::from_secs(34)));
    }

    #[tokio::test]
    async fn a_long_transfer_arrives_whole() {
        let (mut caller, near) = duplex(1 << 20);
        let (far, mut callee) = duplex(100_000);
        let sent: Vec<u8> = (0..5_000_000u32).map(|number| number.to_le_bytes()[number as usize % 4]).collect();
        let talk = async {
            let (written, mut received) = (sent.clone(), Vec::new());
            let send = async {
                caller.write_all(&written).await.unwrap();
                caller.shutdown().await.unwrap();
            };
            let take = async {
                callee.read_to_end(&mut received).await.unwrap();
                callee.shutdown().await.unwrap();
            };
            tokio::join!(send, take);
            received
        };
        let ((end, bytes), received) = tokio::join!(relay(near, far, None), talk);
        assert!(matches!(end, End::Closed));
        assert!(received == sent && bytes == 5_000_000, "{} of {bytes} bytes", received.len());
    }

    #[tokio::test]
    async fn each_sides_end_is_passed_on() {
        let (mut caller, near) = duplex(64);
        let (far, mut callee) = duplex(64);
        let talk = async move {
            caller.write_all(b"ask").await.unwrap();
            caller.shutdown().await.unwrap();
            let mut asked = Vec::new();
            callee.read_to_end(&mut asked).await.unwrap();
            callee.write_all(b"answer").await.unwrap();
            drop(callee);
            let mut answered = Vec::new();
            caller.read_to_end(&mut answered).await.unwrap();
            (asked, answered)
        };
        let ((end, bytes), (asked, answered)) = tokio::join!(relay(near, far, None), talk);
        assert_eq!((asked, answered), (b"ask".to_vec(), b"answer".to_vec()));
        assert!(matches!(end, End::Closed));
        assert_eq!(bytes, 9);
    }
}
