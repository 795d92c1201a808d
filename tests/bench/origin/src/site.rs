//! What the callee answers, whatever the version of HTTP.
//!
//! | path | answer |
//! | --- | --- |
//! | `/body/N` | N bytes |
//! | `/once/KEY` | 503 to the first request with this key, then as any other |
//! | `/hang` | none, ever |
//! | `/count` | connections and requests so far, this one left out, as JSON |
//! | any other | 64 bytes |

use std::{
    cell::{Cell, RefCell},
    collections::HashSet,
};

use bytes::Bytes;

/// Headers of every answer, beside its length.
pub(crate) const HEADERS: [(&str, &str); 4] =
    [("content-type", "text/plain"), ("cache-control", "no-store"), ("x-served-by", "origin"), ("etag", "\"2f-5a7c\"")];

const SMALL: usize = 64;
const LARGEST: usize = 16 << 20;

/// The callee's memory.
#[derive(Debug)]
pub(crate) struct Site {
    connections: Cell<u64>,
    requests: Cell<u64>,
    failed: RefCell<HashSet<Box<str>>>,
    content: RefCell<Bytes>,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Bytes,
}

impl Default for Site {
    fn default() -> Self {
        let content = RefCell::new(Bytes::from(vec![b'x'; 1 << 20]));
        Self { connections: Cell::default(), requests: Cell::default(), failed: RefCell::default(), content }
    }
}

impl Site {
    /// Counts a connection.
    pub(crate) fn connected(&self) {
        self.connections.set(self.connections.get() + 1);
    }

    /// What a request for `path` gets; `None` is no answer at all.
    pub(crate) fn answer(&self, path: &str) -> Option<Answer> {
        let found = |body| Some(Answer { status: 200, body });
        if path == "/count" {
            let (connections, requests) = (self.connections.get(), self.requests.get());
            return found(format!("{{\"connections\":{connections},\"requests\":{requests}}}").into());
        }
        self.requests.set(self.requests.get() + 1);
        if path == "/hang" {
            return None;
        }
        if let Some(key) = path.strip_prefix("/once/")
            && self.failed.borrow_mut().insert(key.into())
        {
            return Some(Answer { status: 503, body: Bytes::new() });
        }
        let length = path.strip_prefix("/body/").and_then(|number| number.parse().ok()).unwrap_or(SMALL);
        found(self.content(length.min(LARGEST)))
    }

    fn content(&self, length: usize) -> Bytes {
        let mut content = self.content.borrow_mut();
        if content.len() < length {
            *content = Bytes::from(vec![b'x'; length]);
        }
        content.slice(..length)
    }
}
