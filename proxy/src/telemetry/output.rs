//! Standard output, written where it holds nothing up.
//!
//! A pipe that nobody reads blocks whoever writes once it is full. So lines only go into a buffer, and a thread of its own writes
//! them: lines of the proxy's own log and records of requests, in the order in which they came. What does not fit into the buffer is
//! dropped and counted. With what is being written, lines take twice [`BUFFER`] at most.

use std::{
    io::{self, ErrorKind, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use parking_lot::{Condvar, Mutex};
use tracing_subscriber::fmt::MakeWriter;

/// Bytes of lines that may wait to be written.
pub const BUFFER: usize = 256 * 1024;

/// Where lines are put. They are written as long as the process lives.
#[derive(Clone, Debug)]
pub struct Output(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    dropped: Arc<AtomicU64>,
}

#[derive(Debug, Default)]
struct State {
    /// What waits, in whole lines.
    waiting: Vec<u8>,
    /// The thread is writing what waited before.
    writing: bool,
}

impl State {
    fn is_done(&self) -> bool {
        self.waiting.is_empty() && !self.writing
    }
}

impl Output {
    /// Lines go to `to`, which may block.
    ///
    /// # Errors
    /// When there can be no thread that writes them.
    pub fn start(to: impl Write + Send + 'static) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let output = Self(Arc::clone(&shared));
        thread::Builder::new().name("output".into()).spawn(move || shared.write(to))?;
        Ok(output)
    }

    /// Puts whole lines, each with its end, or drops them all when they do not fit. Never blocks on whoever reads them.
    pub fn put(&self, lines: &[u8]) {
        let mut state = self.0.state.lock();
        if state.waiting.len() + lines.len() > BUFFER {
            self.0.drop_lines(lines);
            return;
        }
        state.waiting.extend_from_slice(lines);
        drop(state);
        self.0.changed.notify_all();
    }

    /// Waits until all that was put is written, as long as `patience` at most. Whether it is.
    pub fn flush(&self, patience: Duration) -> bool {
        let mut state = self.0.state.lock();
        !self.0.changed.wait_while_for(&mut state, |state| !state.is_done(), patience).timed_out()
    }

    /// Lines that were dropped: there was no room for them, or they could not be written.
    pub fn dropped(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.0.dropped)
    }
}

impl Shared {
    fn write(&self, mut to: impl Write) {
        let mut lines = Vec::new();
        loop {
            let mut state = self.state.lock();
            state.writing = false;
            self.changed.notify_all();
            self.changed.wait_while(&mut state, |state| state.waiting.is_empty());
            lines.clear();
            std::mem::swap(&mut lines, &mut state.waiting);
            state.writing = true;
            drop(state);
            self.drop_lines(write_all(&mut to, &lines));
        }
    }

    fn drop_lines(&self, lines: &[u8]) {
        let ends = memchr::memchr_iter(b'\n', lines).count();
        self.dropped.fetch_add(u64::try_from(ends).unwrap_or(u64::MAX), Relaxed);
    }
}

/// Writes `bytes`; what is left of them when nobody takes any more.
fn write_all<'a>(to: &mut impl Write, mut bytes: &'a [u8]) -> &'a [u8] {
    while !bytes.is_empty() {
        match to.write(bytes) {
            Ok(written @ 1..) => bytes = &bytes[written..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Ok(_) | Err(_) => break,
        }
    }
    bytes
}

/// One line of the proxy's own log, which its formatter writes at once.
impl Write for &Output {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.put(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Output {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> Self::Writer {
        self
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, pipe};

    use super::*;

    /// As long as it takes on a machine that is busy.
    const PATIENCE: Duration = Duration::from_secs(20);

    #[test]
    fn lines_that_nobody_reads_are_dropped_and_counted_and_the_others_come_in_order() {
        let (reader, writer) = pipe().unwrap();
        let output = Output::start(writer).unwrap();
        let put: u64 = 20_000;
        (0..put).for_each(|number| output.put(format!("{number:064}\n").as_bytes()));
        assert!(!output.flush(Duration::from_millis(50)), "the pipe is full, and there is an end to the wait");
        let dropped = output.dropped().load(Relaxed);
        assert!(dropped > put / 2, "{dropped}: neither the pipe nor the buffer has room for so many");
        let read = usize::try_from(put - dropped).unwrap();
        let lines: Vec<_> = BufReader::new(reader).lines().take(read).map(Result::unwrap).collect();
        assert_eq!(lines.len(), read);
        assert!(lines.is_sorted(), "they came in another order");
        assert!(output.flush(PATIENCE));
        assert_eq!(output.dropped().load(Relaxed), dropped, "what was not dropped was written");
    }

    #[test]
    fn both_kinds_of_lines_keep_their_order() {
        let (reader, writer) = pipe().unwrap();
        let output = Output::start(writer).unwrap();
        let log = tracing_subscriber::fmt().json().flatten_event(true).with_writer(output.clone()).finish();
        tracing::subscriber::with_default(log, || {
            tracing::info!("first");
            output.put(b"second\n");
            tracing::info!("third");
        });
        let lines: Vec<_> = BufReader::new(reader).lines().take(3).map(Result::unwrap).collect();
        assert!(lines[0].contains("first") && lines[1] == "second" && lines[2].contains("third"), "{lines:?}");
        assert_eq!(output.dropped().load(Relaxed), 0);
    }

    #[test]
    fn lines_for_a_reader_that_is_gone_are_dropped_and_counted() {
        let (reader, writer) = pipe().unwrap();
        drop(reader);
        let output = Output::start(writer).unwrap();
        output.put(b"one\ntwo\n");
        assert!(output.flush(PATIENCE));
        assert_eq!(output.dropped().load(Relaxed), 2);
    }
}
