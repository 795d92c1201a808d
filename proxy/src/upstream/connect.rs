//! Opening a connection: counted by the callee's bulkhead, bounded by the clocks, named when it fails.

use std::{io, net::SocketAddr};

use tokio::{
    net::TcpStream,
    time::{Instant, timeout_at},
};

use crate::{
    policy::{
        bulkhead::{Opened, Room},
        timeout::{Clocks, End},
    },
    snapshot::Callee,
    verdict::Reason,
    worker::Worker,
};

/// Why a connection could not be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotOpened {
    /// The reason.
    pub reason: Reason,
    /// The error of the system behind it, if there was one.
    pub errno: Option<i32>,
}

/// Opens a connection to `address` for `callee`. `attempt_end` is the end of the try that needs it.
///
/// # Errors
/// Why there is no connection.
pub async fn connect(
    worker: &Worker,
    callee: &Callee,
    address: SocketAddr,
    clocks: Clocks,
    attempt_end: Option<End>,
) -> Result<(TcpStream, Opened), NotOpened> {
    let work = async {
        let opened = room(worker, callee).await;
        let stream = TcpStream::connect(address).await.map_err(|error| NotOpened::from(&error))?;
        // Small messages must not wait for an acknowledgement; a socket that is already gone shows at the first write.
        let _ = stream.set_nodelay(true);
        Ok((stream, opened))
    };
    match clocks.connect_end(Instant::now(), attempt_end) {
        None => work.await,
        Some(end) => timeout_at(end.at, work).await.unwrap_or(Err(NotOpened { reason: end.reason, errno: None })),
    }
}

/// Waits until the bulkhead has room for a socket, giving up idle connections for it.
async fn room(worker: &Worker, callee: &Callee) -> Opened {
    loop {
        let freed = callee.gate.socket_freed();
        match callee.gate.open() {
            Room::Yes(opened) => return opened,
            Room::AfterClosingIdle => {
                worker.give_up_idle(callee.id);
                freed.await;
            }
        }
    }
}

/// ENOMEM, ENFILE, EMFILE, EADDRNOTAVAIL (no local port) and ENOBUFS, on Linux: what the proxy itself lacks.
const WANTING: [i32; 5] = [12, 23, 24, 99, 105];

impl From<&io::Error> for NotOpened {
    fn from(error: &io::Error) -> Self {
        let reason = match error.kind() {
            // No fault of the callee's, and another try would need yet another of what there is none left of.
            _ if error.raw_os_error().is_some_and(|number| WANTING.contains(&number)) => Reason::OutOfResources,
            io::ErrorKind::ConnectionRefused => Reason::ConnectionRefused,
            io::ErrorKind::TimedOut => Reason::ConnectTimeout,
            io::ErrorKind::ConnectionReset => Reason::ConnectionReset,
            _ => Reason::ConnectFailed,
        };
        Self { reason, errno: error.raw_os_error() }
    }
}

impl From<NotOpened> for Reason {
    fn from(not_opened: NotOpened) -> Self {
        not_opened.reason
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_proxy_itself_lacks_is_not_the_callees_failure() {
        let reason = |errno| NotOpened::from(&io::Error::from_raw_os_error(errno)).reason;
        for errno in WANTING {
            assert_eq!(reason(errno), Reason::OutOfResources, "{errno}");
        }
        assert!(!Reason::OutOfResources.is_outcome() && !Reason::OutOfResources.is_unsent());
        // ECONNREFUSED, EHOSTUNREACH
        assert_eq!([111, 113].map(reason), [Reason::ConnectionRefused, Reason::ConnectFailed]);
    }
}
