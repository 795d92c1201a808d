//! Listening sockets: one for each worker at the same address, among which the kernel spreads connections.

use std::{io, net::SocketAddr, time::Duration};

use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 1024;

/// After how long a silence a caller is asked whether it is there, how often, and how many times before it is given up.
const KEEPALIVE: Duration = Duration::from_mins(1);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_RETRIES: u32 = 3;

/// A listening socket that nobody else may share.
///
/// # Errors
/// When the address is taken or may not be used.
pub fn bind_alone(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    bind(address, false)
}

/// A listening socket. An IPv6 socket takes IPv6 only.
fn bind(address: SocketAddr, shared: bool) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.set_nonblocking(true)?;
    // What is accepted inherits it: a caller that is gone without a word does not count as a connection for ever.
    socket.set_tcp_keepalive(
        &TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE_INTERVAL).with_retries(KEEPALIVE_RETRIES),
    )?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// A listening socket for each of `count` workers; port 0 is chosen once and used by all.
///
/// # Errors
/// As [`bind_alone`].
pub fn bind_all(address: SocketAddr, count: usize) -> io::Result<Vec<std::net::TcpListener>> {
    // With one worker nobody shares, so that an address that somebody else has is refused instead of halved.
    let shared = count > 1;
    let first = bind(address, shared)?;
    let address = first.local_addr()?;
    let others = (1..count).map(|_| bind(address, shared));
    std::iter::once(Ok(first)).chain(others).collect()
}
