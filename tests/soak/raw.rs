//! Callers that write HTTP/1 by hand, for what no client does: requests ahead of answers, HTTP/1.0, a body that waits for
//! `100 Continue`, and another protocol after the first answer.

use std::io::{self, ErrorKind};

use anyhow::{Context, bail, ensure};
use fastrand::Rng;
use http::StatusCode;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    time::timeout,
};

use crate::{
    callers::PATIENCE,
    exchange::{tells_failure, verdict},
    kind::Kind,
    request,
    site::{PROTOCOL, sum},
    tally::{End, Sent},
    world::World,
};

/// Requests that are sent at once, at most, and the length of their bodies.
const DEPTH: usize = 6;
const BODY: usize = 2000;
/// What is said in the other protocol: so often, so much.
const WORDS: usize = 4;
const WORD: usize = 4096;

/// An answer that came to its end.
struct Answer {
    status: StatusCode,
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn field(&self, name: &str) -> Option<&str> {
        field(&self.head, name)
    }

    fn closes(&self) -> bool {
        self.field("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }

    /// The same of an answer that may end with its connection, of which nobody can tell the whole from a part (RFC 9112, 8).
    fn compare_old(&self, wanted: &str) -> Result<bool, String> {
        let is_part = self.body.len() < wanted.len() && wanted.as_bytes().starts_with(&self.body);
        if self.status == StatusCode::OK && self.field("content-length").is_none() && is_part {
            return Ok(false);
        }
        self.compare(wanted)
    }

    /// Why it is not the right one, if it says that it is.
    fn compare(&self, wanted: &str) -> Result<bool, String> {
        match self.status {
            StatusCode::OK if self.body == wanted.as_bytes() => Ok(true),
            StatusCode::OK => Err(format!("not its answer ({wanted}): {:.80}", String::from_utf8_lossy(&self.body))),
            status => tells_failure(status),
        }
    }
}

/// A connection from a caller of this kind.
pub(crate) struct Raw<'a> {
    world: &'a World,
    kind: Kind,
    stream: BufReader<TcpStream>,
}

impl<'a> Raw<'a> {
    pub(crate) fn new(world: &'a World, kind: Kind, stream: TcpStream) -> Self {
        Self { world, kind, stream: BufReader::new(stream) }
    }

    /// One connection from its beginning to its end.
    pub(crate) async fn run(mut self, rng: &mut Rng) {
        match self.kind {
            Kind::Pipelines => while self.pipeline(rng).await && rng.bool() {},
            Kind::Old => self.old(rng).await,
            Kind::Expects => self.expect(rng).await,
            _ => self.upgrade(rng).await,
        }
    }

    /// Several requests at once, and the answers in their order. Whether more may follow.
    async fn pipeline(&mut self, rng: &mut Rng) -> bool {
        let mut requests = Vec::new();
        let mut wanted = Vec::new();
        for _ in 0..rng.usize(2..=DEPTH) {
            let id = self.world.id();
            let body = request::bytes(id, rng.usize(..2) * rng.usize(1..BODY));
            let method = if body.is_empty() { "GET" } else { "POST" };
            let head = format!("{method} /echo/{id} HTTP/1.1\r\nhost: soak\r\ncontent-length: {}\r\n\r\n", body.len());
            requests.extend_from_slice(head.as_bytes());
            requests.extend_from_slice(&body);
            wanted.push((id, format!("{id} {}", sum(&body))));
        }
        let mut sent = self.world.tally.send(self.kind);
        if self.stream.write_all(&requests).await.is_err() {
            self.world.tally.end(&sent, End::BrokenOff);
            return false;
        }
        let last = wanted.len() - 1;
        for (place, (id, wanted)) in wanted.into_iter().enumerate() {
            let Some(answer) = self.answer(&sent, "GET").await else { return false };
            self.end(&sent, id, answer.compare(&wanted));
            // The requests behind an answer that is the last are none.
            if answer.closes() {
                return false;
            }
            if place < last {
                sent = self.world.tally.send(self.kind);
            }
        }
        true
    }

    /// A request in HTTP/1.0: the answer must not be in chunks, and what has no length ends with the connection.
    async fn old(&mut self, rng: &mut Rng) {
        let id = self.world.id();
        let (path, wants) =
            (if rng.bool() { "streamed" } else { "echo" }, if rng.bool() { "keep-alive" } else { "close" });
        let sent = self.world.tally.send(self.kind);
        let request = format!("GET /{path}/{id} HTTP/1.0\r\nconnection: {wants}\r\n\r\n");
        if self.stream.write_all(request.as_bytes()).await.is_err() {
            return self.world.tally.end(&sent, End::BrokenOff);
        }
        let Some(answer) = self.answer(&sent, "GET").await else { return };
        let told = match answer.field("transfer-encoding") {
            Some(coding) => Err(format!("{coding} to a caller of HTTP/1.0")),
            None => answer.compare_old(&format!("{id} {}", sum(b""))),
        };
        self.end(&sent, id, told);
    }

    /// A body that is sent when it was asked for.
    async fn expect(&mut self, rng: &mut Rng) {
        let id = self.world.id();
        let body = request::bytes(id, rng.usize(1..BODY));
        let sent = self.world.tally.send(self.kind);
        let request = format!(
            "POST /echo/{id} HTTP/1.1\r\nhost: soak\r\nexpect: 100-continue\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        if self.stream.write_all(request.as_bytes()).await.is_err() {
            return self.world.tally.end(&sent, End::BrokenOff);
        }
        let Some(mut answer) = self.answer(&sent, "POST").await else { return };
        if answer.status == StatusCode::CONTINUE {
            // Where the answer is a failure the proxy need not take the body.
            let _ = self.stream.write_all(&body).await;
            let Some(last) = self.answer(&sent, "POST").await else { return };
            answer = last;
        } else if answer.status == StatusCode::OK {
            return self.end(&sent, id, Err("answered before its body was asked for".to_owned()));
        }
        self.end(&sent, id, answer.compare(&format!("{id} {}", sum(&body))));
    }

    /// Changes the protocol, and says something that must come back.
    async fn upgrade(&mut self, rng: &mut Rng) {
        let id = self.world.id();
        let sent = self.world.tally.send(self.kind);
        let request =
            format!("GET /upgrade/{id} HTTP/1.1\r\nhost: soak\r\nconnection: upgrade\r\nupgrade: {PROTOCOL}\r\n\r\n");
        if self.stream.write_all(request.as_bytes()).await.is_err() {
            return self.world.tally.end(&sent, End::BrokenOff);
        }
        let Some(answer) = self.answer(&sent, "GET").await else { return };
        if answer.status != StatusCode::SWITCHING_PROTOCOLS {
            return self.end(&sent, id, tells_failure(answer.status));
        }
        for word in 0..rng.usize(1..=WORDS) {
            let word = request::bytes(id + word as u64, rng.usize(1..WORD));
            let mut back = vec![0; word.len()];
            let talk = async {
                self.stream.write_all(&word).await?;
                self.stream.read_exact(&mut back).await
            };
            match timeout(PATIENCE, talk).await {
                Err(_) => return self.world.defect(self.kind, format_args!("request {id}: no word back")),
                Ok(Err(_)) => return self.world.tally.end(&sent, End::BrokenOff),
                Ok(Ok(_)) if back != word => return self.end(&sent, id, Err("other words came back".to_owned())),
                Ok(Ok(_)) => {}
            }
        }
        self.hang_up(&sent, id).await;
    }

    /// Says that no more will come, upon which the callee says the same.
    async fn hang_up(&mut self, sent: &Sent, id: u64) {
        let mut rest = Vec::new();
        let close = async {
            self.stream.shutdown().await?;
            self.stream.read_to_end(&mut rest).await
        };
        match timeout(PATIENCE, close).await {
            Err(_) => self.world.defect(self.kind, format_args!("request {id}: open {PATIENCE:?} after the last word")),
            Ok(Err(_)) => self.world.tally.end(sent, End::BrokenOff),
            Ok(Ok(0)) => self.world.tally.end(sent, End::Right),
            Ok(Ok(more)) => self.end(sent, id, Err(format!("{more} bytes that nobody said"))),
        }
    }

    fn end(&self, sent: &Sent, id: u64, told: Result<bool, String>) {
        self.world.tally.end(sent, verdict(self.world, self.kind, id, told));
    }

    /// The next answer, if there is one: its request has come to its end if there is not.
    async fn answer(&mut self, sent: &Sent, method: &str) -> Option<Answer> {
        match timeout(PATIENCE, read(&mut self.stream, method)).await {
            Ok(Ok(answer)) => return Some(answer),
            Err(_) => self.world.defect(self.kind, format_args!("no answer, or no end of it, after {PATIENCE:?}")),
            Ok(Err(error)) if error.is::<io::Error>() => self.world.tally.end(sent, End::BrokenOff),
            Ok(Err(error)) => self.world.defect(self.kind, format_args!("an answer that is none: {error:#}")),
        }
        None
    }
}

/// Reads an answer. An [`io::Error`] is one that broke off; any other is one that breaks the rules.
async fn read(stream: &mut BufReader<TcpStream>, method: &str) -> anyhow::Result<Answer> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head).await? == 0 {
            return Err(io::Error::from(ErrorKind::UnexpectedEof).into());
        }
    }
    ensure!(head.starts_with("HTTP/1."), "a head that is none: {head:?}");
    let status = head.get(9..12).context("no status")?.parse()?;
    let mut answer = Answer { status, head, body: Vec::new() };
    if status.is_informational() || method == "HEAD" {
        return Ok(answer);
    }
    if let Some(length) = answer.field("content-length") {
        answer.body = vec![0; length.parse().context("content-length")?];
        stream.read_exact(&mut answer.body).await?;
    } else if answer.field("transfer-encoding").is_some() {
        answer.body = chunks(stream).await?;
    } else {
        stream.read_to_end(&mut answer.body).await?;
    }
    Ok(answer)
}

async fn chunks(stream: &mut BufReader<TcpStream>) -> anyhow::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 {
            return Err(io::Error::from(ErrorKind::UnexpectedEof).into());
        }
        let length =
            usize::from_str_radix(line.trim_end(), 16).with_context(|| format!("length of a chunk: {line:?}"))?;
        let begun = body.len();
        body.resize(begun + length + 2, 0);
        stream.read_exact(&mut body[begun..]).await?;
        if !body.ends_with(b"\r\n") {
            bail!("a chunk that does not end where it said");
        }
        body.truncate(begun + length);
        if length == 0 {
            return Ok(body);
        }
    }
}

fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let fields = head.lines().skip(1).filter_map(|line| line.split_once(':'));
    fields.into_iter().find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
}
