//! Bytes both ways until both sides are done, or nothing has moved for too long.

use std::{
    cell::Cell,
    io,
    pin::{Pin, pin},
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional_with_sizes},
    time::{Instant, timeout_at},
};

/// Buffer for each way.
const BUFFER: usize = 16 * 1024;

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

/// What was moved, and when last.
#[derive(Debug)]
struct Moved {
    bytes: Cell<u64>,
    last: Cell<Instant>,
}

struct Watched<'a, T> {
    stream: T,
    moved: &'a Moved,
}

/// Copies both ways, passing on each side's end. Returns how it ended and the bytes that were moved.
pub async fn relay<A, B>(caller: A, callee: B, idle: Option<Duration>) -> (End, u64)
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let moved = Moved { bytes: Cell::new(0), last: Cell::new(Instant::now()) };
    let mut caller = Watched { stream: caller, moved: &moved };
    let mut callee = Watched { stream: callee, moved: &moved };
    let mut copy = pin!(copy_bidirectional_with_sizes(&mut caller, &mut callee, BUFFER, BUFFER));
    let end = loop {
        let Some(idle) = idle else { break closed(copy.as_mut().await) };
        let until = moved.last.get() + idle;
        match timeout_at(until, copy.as_mut()).await {
            Ok(result) => break closed(result),
            Err(_) if moved.last.get() + idle > until => {}
            Err(_) => break End::Idle,
        }
    };
    (end, moved.bytes.get())
}

fn closed(result: io::Result<(u64, u64)>) -> End {
    result.map_or_else(End::Broken, |_| End::Closed)
}

impl<T: AsyncRead + Unpin> AsyncRead for Watched<'_, T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let poll = Pin::new(&mut this.stream).poll_read(cx, buf);
        let read = buf.filled().len() - before;
        if read > 0 {
            this.moved.bytes.set(this.moved.bytes.get() + read as u64);
            this.moved.last.set(Instant::now());
        }
        poll
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Watched<'_, T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

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
