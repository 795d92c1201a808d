//! HTTP/1.1 for [`rate`](crate::rate), by hand: the less the generator does, the less its own delays are measured.

use std::{
    cell::{Cell, RefCell},
    io,
    rc::Rc,
};

use anyhow::Context;
use tokio::{net::TcpStream, task::spawn_local, time::Instant};

use crate::{
    To,
    rate::{Books, Sender},
};

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: bench\r\nuser-agent: firebreak-bench\r\naccept: */*\r\n\r\n";

struct Connection {
    stream: RefCell<Rc<TcpStream>>,
    due: Cell<Option<Instant>>,
}

struct Connections {
    idle: RefCell<Vec<Rc<Connection>>>,
    books: Rc<Books>,
}

/// Opens all connections.
pub(crate) async fn connect(to: To, books: &Rc<Books>) -> anyhow::Result<Rc<dyn Sender>> {
    let connections = Rc::new(Connections { idle: RefCell::default(), books: Rc::clone(books) });
    for _ in 0..to.connections {
        let stream = RefCell::new(Rc::new(open(to).await.context("cannot connect")?));
        let connection = Rc::new(Connection { stream, due: Cell::default() });
        connections.idle.borrow_mut().push(Rc::clone(&connection));
        spawn_local(serve(Rc::clone(&connections), connection, to));
    }
    Ok(connections)
}

async fn open(to: To) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(to.address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

impl Sender for Connections {
    fn send(&self, due: Instant) -> bool {
        let Some(connection) = self.idle.borrow_mut().pop() else { return false };
        connection.send(due);
        true
    }
}

impl Connection {
    fn send(&self, due: Instant) {
        self.due.set(Some(due));
        // A connection that is gone shows when the answer is read; the buffer of one that is idle is empty.
        let _ = self.stream.borrow().try_write(REQUEST);
    }
}

/// Reads answers. A connection that ends is opened anew; what was under way on it has failed.
async fn serve(connections: Rc<Connections>, connection: Rc<Connection>, to: To) {
    let books = &connections.books;
    loop {
        let stream = Rc::clone(&connection.stream.borrow());
        // An end is told by what was under way.
        let _ = answers(&connections, &connection, &stream).await;
        let Ok(fresh) = open(to).await else { return };
        connection.stream.replace(Rc::new(fresh));
        if let Some(due) = connection.due.take() {
            books.answered(due, false);
            next(&connections, &connection);
        }
    }
}

async fn answers(connections: &Connections, connection: &Rc<Connection>, stream: &TcpStream) -> io::Result<()> {
    let (mut buffer, mut filled) = (vec![0; 16 * 1024], 0);
    loop {
        stream.readable().await?;
        match stream.try_read(&mut buffer[filled..]) {
            Ok(0) => return Ok(()),
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        }
        let Some(ok) = whole(&buffer[..filled])? else { continue };
        filled = 0;
        let Some(due) = connection.due.take() else { return Err(io::ErrorKind::InvalidData.into()) };
        connections.books.answered(due, ok);
        next(connections, connection);
    }
}

fn next(connections: &Connections, connection: &Rc<Connection>) {
    match connections.books.waiting.borrow_mut().pop_front() {
        Some(due) => connection.send(due),
        None => connections.idle.borrow_mut().push(Rc::clone(connection)),
    }
}

/// Whether the answer is all there, and then whether it is a success.
fn whole(bytes: &[u8]) -> io::Result<Option<bool>> {
    let Some(head) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
    let text = std::str::from_utf8(&bytes[..head]).map_err(|_| io::ErrorKind::InvalidData)?;
    let lengths = text.lines().filter_map(|line| line.split_once(':'));
    let length = lengths
        .filter(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .find_map(|(_, value)| value.trim().parse().ok());
    let length: usize = length.ok_or(io::ErrorKind::InvalidData)?;
    Ok((bytes.len() >= head + 4 + length).then(|| text.starts_with("HTTP/1.1 200")))
}
