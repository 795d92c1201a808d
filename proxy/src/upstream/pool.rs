//! A worker's open connections to callees.
//!
//! Each worker has its own, on its own thread: no lock, and a connection never moves. Idle HTTP/1 connections are a stack,
//! so that the warm ones are used and the rest grow old and are closed; HTTP/2 connections are shared by streams, and one
//! that is being opened is waited for instead of opening another.
//!
//! Idle connections are closed after [`IDLE`]: less than common servers' own keep-alive time, so that a connection is
//! given up before the callee closes it under a request. Where a callee is known to close sooner (see
//! [`keep_alive`](super::keep_alive)), its connections are not used for that long.

use std::{
    cell::{Cell, RefCell},
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use hashbrown::HashMap;
use hyper::client::conn::http2;
use tokio::{sync::Notify, time::Instant};

use super::{connect::NotOpened, exclusive::Rest, send::Upstream, traffic::Traffic};
use crate::{
    clock,
    h1::conn,
    http::send_body::SendBody,
    policy::bulkhead::{Gate, Opened},
    telemetry::metrics::Counter,
};

/// How long an unused connection is kept. Node.js closes after 5 s, most others later.
pub const IDLE: Duration = Duration::from_secs(4);

/// Most HTTP/2 connections that one worker opens to one address.
const SHARED: usize = 8;

/// Where a connection leads, and for whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// [`Callee::id`](crate::snapshot::Callee::id).
    pub callee: u32,
    /// The endpoint, or the address that the caller called.
    pub address: SocketAddr,
}

/// Tells a worker's connections apart; later ones have greater numbers.
pub type Id = u64;

/// Connections that a try does not take if it can help it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Avoid {
    /// Any will do.
    Nothing,
    /// The one of the last try.
    One(Id),
    /// All that were there when one of them turned out to be dead: the others may be just as dead, a new one is not.
    UpTo(Id),
}

/// An HTTP/1 connection that carries one request at a time.
#[derive(Debug)]
pub struct Exclusive {
    /// The connection.
    pub conn: conn::Shared<Upstream>,
    /// Tells connections apart: a retry takes another.
    pub id: Id,
    /// Whether it has carried a request to its end before.
    pub carried: bool,
    /// Whether it can carry another after this one.
    pub persistent: bool,
    /// What sends the rest of a request that was answered already.
    pub(super) rest: Option<Rest>,
    /// What it has carried.
    pub traffic: Arc<Traffic>,
    /// How long it had carried none when it was taken.
    pub idle: Duration,
    key: Key,
    since: Instant,
    /// The socket, which counts as long as this is held.
    _opened: Opened,
}

/// An HTTP/2 connection. The stream it was taken for counts as long as this is held.
#[derive(Debug)]
pub struct Shared {
    /// Hands requests to the connection's task.
    pub sender: http2::SendRequest<SendBody>,
    /// Tells connections apart: a retry takes another.
    pub id: Id,
    /// What it has carried.
    pub traffic: Arc<Traffic>,
    /// How long it had carried nothing when the stream was taken.
    pub idle: Duration,
    usage: Rc<Use>,
}

/// How a shared connection is used.
#[derive(Debug, Default)]
struct Use {
    /// Streams that are open on it.
    streams: Cell<usize>,
    /// Whether a request was answered on it.
    carried: Cell<bool>,
}

/// A new HTTP/1 connection, before any request is sent on it.
#[derive(Debug)]
pub struct Single {
    /// The connection.
    pub conn: conn::Shared<Upstream>,
    /// The socket.
    pub opened: Opened,
    /// What it has carried.
    pub traffic: Arc<Traffic>,
}

/// A new HTTP/2 connection, before any stream of it is taken.
#[derive(Debug)]
pub struct Multiplexed {
    /// Hands requests to the connection's task.
    pub sender: http2::SendRequest<SendBody>,
    /// Streams that the callee now allows; the connection's task keeps it true.
    pub max_streams: Rc<Cell<usize>>,
    /// What it has carried.
    pub traffic: Arc<Traffic>,
}

/// What a look for a shared connection brought.
#[derive(Debug)]
pub enum Found {
    /// A connection with room.
    Connection(Shared),
    /// Somebody is opening one: wait, then look again.
    Opening(Rc<Awaited>),
    /// None, and nobody is opening one: the caller does.
    Nothing(Opening),
}

/// The duty to open a shared connection. Whoever waits looks again when it is fulfilled or dropped.
#[derive(Debug)]
pub struct Opening {
    slots: Rc<RefCell<Slots>>,
    key: Key,
    id: Id,
    done: Rc<Awaited>,
}

/// A shared connection that is being opened, for those who wait for it.
#[derive(Debug, Default)]
pub struct Awaited {
    done: Notify,
    failed: Cell<Option<NotOpened>>,
}

/// A worker's connections.
#[derive(Debug)]
pub struct Pool {
    slots: Rc<RefCell<Slots>>,
    next_id: Cell<Id>,
    /// Who is woken when an idle HTTP/1 connection ends.
    watch: RefCell<Waker>,
}

impl Default for Pool {
    fn default() -> Self {
        Self { slots: Rc::default(), next_id: Cell::default(), watch: RefCell::new(Waker::noop().clone()) }
    }
}

type Slots = HashMap<Key, Slot>;

#[derive(Debug, Default)]
struct Slot {
    idle: Vec<Exclusive>,
    shared: Vec<SharedSlot>,
    opening: Option<Rc<Awaited>>,
}

#[derive(Debug)]
struct SharedSlot {
    connection: Multiplexed,
    id: Id,
    usage: Rc<Use>,
    last_used: Cell<Instant>,
}

impl Avoid {
    fn covers(self, id: Id) -> bool {
        match self {
            Self::Nothing => false,
            Self::One(other) => id == other,
            Self::UpTo(last) => id <= last,
        }
    }
}

impl Pool {
    /// Takes an idle HTTP/1 connection. Those that have been idle for so long that their callee is about to close them are given
    /// up, and counted in `given_up`.
    pub fn take(&self, key: Key, avoid: Avoid, given_up: &Counter) -> Option<Exclusive> {
        let mut slots = self.slots.borrow_mut();
        let idle = &mut slots.get_mut(&key)?.idle;
        let now = clock::now();
        let mut kept_back = Vec::new();
        let connection = loop {
            // The last is the one that was used last; those below it are older, and are looked at when it is their turn.
            let Some(connection) = idle.pop() else { break None };
            // Whoever takes it waits for it; until then, and where it is kept back, it is watched as before.
            let open = connection.is_quiet(&mut Context::from_waker(&self.watch.borrow()));
            let usable = connection.traffic.keep_alive().usable(now);
            let usable = usable.is_none_or(|usable| now.saturating_duration_since(connection.since) < usable);
            given_up.add(u64::from(open && !usable));
            match (open && usable, avoid.covers(connection.id)) {
                (false, _) => {}
                (true, false) => break Some(connection),
                (true, true) => kept_back.push(connection),
            }
        };
        idle.extend(kept_back.into_iter().rev());
        let connection = connection?;
        let idle = connection.traffic.busy(now);
        Some(Exclusive { idle, ..connection })
    }

    /// Gives back an HTTP/1 connection whose response was read to its end, and tells who waits for room for a socket.
    pub fn put(&self, connection: Exclusive, gate: &Gate) {
        self.add(Exclusive { carried: true, ..connection }, gate);
    }

    /// Adds an HTTP/1 connection that has carried no request yet.
    pub fn add(&self, connection: Exclusive, gate: &Gate) {
        let is_quiet = connection.is_quiet(&mut Context::from_waker(&self.watch.borrow()));
        if connection.persistent && is_quiet && connection.conn.borrow().is_flushed() {
            connection.conn.borrow_mut().settle();
            let connection = Exclusive { since: clock::now(), rest: None, ..connection };
            if connection.carried {
                connection.traffic.idle(connection.since);
            }
            self.slots.borrow_mut().entry(connection.key).or_default().idle.push(connection);
            gate.socket_is_idle();
        }
    }

    /// A new HTTP/1 connection, not in the pool yet.
    pub fn exclusive(&self, key: Key, connection: Single) -> Exclusive {
        let Single { conn, opened, traffic } = connection;
        let (id, since, idle) = (self.new_id(), clock::now(), Duration::ZERO);
        let (carried, persistent, rest) = (false, true, None);
        Exclusive { conn, id, carried, persistent, rest, traffic, idle, key, since, _opened: opened }
    }

    /// All connections that are there now.
    pub fn all_so_far(&self) -> Avoid {
        Avoid::UpTo(self.next_id.get().saturating_sub(1))
    }

    fn new_id(&self) -> Id {
        self.next_id.replace(self.next_id.get() + 1)
    }

    /// Looks for an HTTP/2 connection with room for a stream. Behind a Service's address each connection leads to an endpoint
    /// of its own, so a retry on the same one would go to the same place.
    pub fn shared(&self, key: Key, avoid: Avoid) -> Found {
        let mut slots = self.slots.borrow_mut();
        let slot = slots.entry(key).or_default();
        slot.shared.retain(|shared| !shared.connection.sender.is_closed());
        let room = |shared: &&SharedSlot| {
            !avoid.covers(shared.id) && shared.usage.streams.get() < shared.connection.max_streams.get().max(1)
        };
        if let Some(shared) = slot.shared.iter().find(room) {
            return Found::Connection(shared.stream());
        }
        if let Some(opening) = &slot.opening {
            return Found::Opening(Rc::clone(opening));
        }
        // All are full: another, up to a point; beyond it streams wait for their turn on the least loaded.
        if slot.shared.len() >= SHARED
            && let Some(shared) = slot.least_loaded(avoid)
        {
            return Found::Connection(shared.stream());
        }
        let done = Rc::new(Awaited::default());
        slot.opening = Some(Rc::clone(&done));
        Found::Nothing(Opening { slots: Rc::clone(&self.slots), key, id: self.new_id(), done })
    }

    /// Gives no more streams to an HTTP/2 connection that broke or seems to lead nowhere. It closes with its last stream.
    pub fn retire(&self, key: Key, id: Id) {
        if let Some(slot) = self.slots.borrow_mut().get_mut(&key) {
            slot.shared.retain(|shared| shared.id != id);
        }
    }

    /// An HTTP/2 connection, however busy, for when no other may be opened; `avoid` only if there is no other.
    pub fn any_shared(&self, key: Key, avoid: Avoid) -> Option<Shared> {
        self.slots.borrow().get(&key)?.least_loaded(avoid).map(SharedSlot::stream)
    }

    /// Adds an HTTP/2 connection that was opened without looking here first.
    pub fn add_shared(&self, key: Key, connection: Multiplexed) {
        let slot = SharedSlot::new(connection, self.new_id());
        self.slots.borrow_mut().entry(key).or_default().shared.push(slot);
    }

    /// Closes one idle connection of a callee, the coldest first. `false` if there is none.
    pub fn close_idle(&self, callee: u32) -> bool {
        let mut slots = self.slots.borrow_mut();
        let of_callee = slots.iter_mut().filter(|(key, slot)| key.callee == callee && !slot.idle.is_empty());
        let coldest = of_callee.min_by_key(|(_, slot)| slot.idle.first().map(|connection| connection.since));
        if let Some((_, slot)) = coldest {
            drop(slot.idle.remove(0));
            return true;
        }
        let mut shared = slots.iter_mut().filter(|(key, _)| key.callee == callee).map(|(_, slot)| &mut slot.shared);
        shared.any(|shared| {
            let unused = shared.iter().position(|shared| shared.usage.streams.get() == 0);
            unused.is_some_and(|place| {
                drop(shared.swap_remove(place));
                true
            })
        })
    }

    /// Closes idle HTTP/1 connections as soon as their callees do, or say what nobody asked for. Never ready.
    pub fn poll_watch(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.watch.borrow_mut().clone_from(cx.waker());
        for slot in self.slots.borrow_mut().values_mut() {
            slot.idle.retain(|idle| idle.is_quiet(cx));
        }
        Poll::Pending
    }

    /// Closes what has been idle too long, or was closed by the callee.
    pub fn sweep(&self, now: Instant) {
        self.slots.borrow_mut().retain(|_, slot| {
            slot.idle.retain(|idle| now.saturating_duration_since(idle.since) < IDLE);
            slot.shared.retain(|shared| {
                let unused =
                    shared.usage.streams.get() == 0 && now.saturating_duration_since(shared.last_used.get()) >= IDLE;
                !shared.connection.sender.is_closed() && !unused
            });
            !slot.idle.is_empty() || !slot.shared.is_empty() || slot.opening.is_some()
        });
    }
}

impl Exclusive {
    /// Whether nothing came on it, not even its end. If that comes later, the waker is woken.
    fn is_quiet(&self, cx: &mut Context<'_>) -> bool {
        self.conn.borrow_mut().poll_unasked(cx).is_pending()
    }
}

impl Slot {
    fn least_loaded(&self, avoid: Avoid) -> Option<&SharedSlot> {
        let open = self.shared.iter().filter(|shared| !shared.connection.sender.is_closed());
        open.min_by_key(|shared| (avoid.covers(shared.id), shared.usage.streams.get()))
    }
}

impl SharedSlot {
    fn new(connection: Multiplexed, id: Id) -> Self {
        Self { connection, id, usage: Rc::default(), last_used: Cell::new(clock::now()) }
    }

    fn stream(&self) -> Shared {
        let now = clock::now();
        self.usage.streams.set(self.usage.streams.get() + 1);
        self.last_used.set(now);
        Shared {
            sender: self.connection.sender.clone(),
            id: self.id,
            traffic: Arc::clone(&self.connection.traffic),
            idle: self.connection.traffic.busy(now),
            usage: Rc::clone(&self.usage),
        }
    }
}

impl Awaited {
    /// Waits until it is there, or somebody else has to open one.
    ///
    /// # Errors
    /// When nobody can have one now: those who wait do not all find that out one after the other.
    pub async fn done(&self) -> Result<(), NotOpened> {
        self.done.notified().await;
        self.failed.get().map_or(Ok(()), Err)
    }
}

impl Opening {
    /// Says that nobody could have opened it.
    pub fn failed(&self, why: NotOpened) {
        self.done.failed.set(Some(why));
    }

    /// Adds the connection that was opened and takes a stream of it.
    pub fn fulfil(self, connection: Multiplexed) -> Shared {
        let slot = SharedSlot::new(connection, self.id);
        let stream = slot.stream();
        self.slots.borrow_mut().entry(self.key).or_default().shared.push(slot);
        stream
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        if let Some(slot) = self.slots.borrow_mut().get_mut(&self.key) {
            slot.opening = None;
        }
        self.done.done.notify_waiters();
    }
}

impl Shared {
    /// Whether a request was answered on it before.
    pub fn has_carried(&self) -> bool {
        self.usage.carried.get()
    }

    /// A request was answered.
    pub fn carried(&self) {
        self.usage.carried.set(true);
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let left = self.usage.streams.get().saturating_sub(1);
        self.usage.streams.set(left);
        if left == 0 && self.has_carried() {
            self.traffic.idle(clock::now());
        }
    }
}
