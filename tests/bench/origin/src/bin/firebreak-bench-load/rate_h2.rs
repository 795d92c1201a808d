//! HTTP/2 for [`rate`](crate::rate), by hand as well: as much of RFC 9113 as requests without bodies and small answers need.

use std::{
    cell::{Cell, RefCell},
    io,
    rc::Rc,
};

use anyhow::Context;
use tokio::{io::AsyncWriteExt, net::TcpStream, task::spawn_local, time::Instant};

use crate::{
    To,
    rate::{Books, Sender},
};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;

const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

const HEAD: usize = 9;
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Added to the connection's window, as far as it goes: answers are small and the run is short, so it is never used up.
const WINDOW: u32 = (1 << 31) - 1 - 65_535;

/// GET, http, /, and as literals the authority and the user agent (RFC 7541).
const REQUEST: &[u8] = b"\x82\x86\x84\x01\x05bench\x0f\x2b\x0ffirebreak-bench";

struct Connection {
    stream: TcpStream,
    next: Cell<u32>,
    open: RefCell<Vec<Exchange>>,
    ended: Cell<bool>,
}

struct Exchange {
    id: u32,
    due: Instant,
    ok: bool,
}

struct Connections {
    all: Vec<Rc<Connection>>,
    streams: usize,
}

/// Opens all connections.
pub(crate) async fn connect(to: To, streams: usize, books: &Rc<Books>) -> anyhow::Result<Rc<dyn Sender>> {
    let mut all = Vec::new();
    for _ in 0..to.connections {
        let mut stream = TcpStream::connect(to.address).await.context("cannot connect")?;
        stream.set_nodelay(true)?;
        let settings = frame(SETTINGS, 0, 0, &[]);
        let window = frame(WINDOW_UPDATE, 0, 0, &WINDOW.to_be_bytes());
        stream.write_all(&[PREFACE, &settings, &window].concat()).await?;
        let (next, open, ended) = (Cell::new(1), RefCell::default(), Cell::default());
        let connection = Rc::new(Connection { stream, next, open, ended });
        all.push(Rc::clone(&connection));
        spawn_local(serve(connection, Rc::clone(books)));
    }
    Ok(Rc::new(Connections { all, streams }))
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    // Frames of this end are short.
    let length = u8::try_from(payload.len()).unwrap_or(u8::MAX);
    let [a, b, c, d] = stream.to_be_bytes();
    [&[0, 0, length, kind, flags, a, b, c, d], payload].concat()
}

impl Sender for Connections {
    fn send(&self, due: Instant) -> bool {
        let living = self.all.iter().filter(|connection| !connection.ended.get());
        let emptiest =
            living.map(|connection| (connection.open.borrow().len(), connection)).min_by_key(|(open, _)| *open);
        let Some((_, connection)) = emptiest.filter(|(open, _)| *open < self.streams) else { return false };
        connection.send(due);
        true
    }
}

impl Connection {
    fn send(&self, due: Instant) {
        let id = self.next.replace(self.next.get() + 2);
        self.open.borrow_mut().push(Exchange { id, due, ok: false });
        self.write(&frame(HEADERS, END_STREAM | END_HEADERS, id, REQUEST));
    }

    /// The buffer has room for all requests that may be open. A connection that is gone shows when answers are read.
    fn write(&self, bytes: &[u8]) {
        let _ = self.stream.try_write(bytes);
    }

    fn end(&self, id: u32, books: &Books) {
        let mut open = self.open.borrow_mut();
        let Some(place) = open.iter().position(|exchange| exchange.id == id) else { return };
        let exchange = open.swap_remove(place);
        drop(open);
        books.answered(exchange.due, exchange.ok);
        let waiting = books.waiting.borrow_mut().pop_front();
        if let Some(due) = waiting {
            self.send(due);
        }
    }

    fn received(&self, kind: u8, flags: u8, id: u32, payload: &[u8], books: &Books) {
        match kind {
            HEADERS => {
                if let Some(exchange) = self.open.borrow_mut().iter_mut().find(|exchange| exchange.id == id) {
                    // Trailers do not take it back.
                    exchange.ok |= is_200(payload);
                }
            }
            SETTINGS if flags & ACK == 0 => self.write(&frame(SETTINGS, ACK, 0, &[])),
            PING if flags & ACK == 0 => self.write(&frame(PING, ACK, 0, payload)),
            RST_STREAM => self.end(id, books),
            _ => {}
        }
        if (kind == HEADERS || kind == DATA) && flags & END_STREAM != 0 {
            self.end(id, books);
        }
    }
}

/// Reads answers. What is open when the connection ends has failed.
async fn serve(connection: Rc<Connection>, books: Rc<Books>) {
    // Why it ended does not matter.
    let _ = answers(&connection, &books).await;
    connection.ended.set(true);
    for exchange in connection.open.take() {
        books.answered(exchange.due, false);
    }
}

async fn answers(connection: &Connection, books: &Books) -> io::Result<()> {
    let (mut buffer, mut filled) = (vec![0; 64 * 1024], 0);
    loop {
        connection.stream.readable().await?;
        match connection.stream.try_read(&mut buffer[filled..]) {
            Ok(0) => return Ok(()),
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        }
        let mut begin = 0;
        while let Some(&[a, b, c, kind, flags, d, e, f, g]) = buffer[begin..filled].first_chunk::<HEAD>() {
            let end = begin + HEAD + u32::from_be_bytes([0, a, b, c]) as usize;
            if end > filled {
                break;
            }
            let id = u32::from_be_bytes([d & 0x7f, e, f, g]);
            connection.received(kind, flags, id, &buffer[begin + HEAD..end], books);
            begin = end;
        }
        buffer.copy_within(begin..filled, 0);
        filled -= begin;
    }
}

/// Whether a block of headers begins with the status that everybody writes as one byte. Changes of the table's size may come before.
fn is_200(block: &[u8]) -> bool {
    block.iter().find(|byte| **byte & 0xe0 != 0x20) == Some(&0x88)
}
