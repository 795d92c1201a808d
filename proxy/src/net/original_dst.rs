//! Where a redirected connection was going: the kernel's connection tracking remembers.

use std::{io, net::SocketAddr};

use socket2::SockRef;
use tokio::net::TcpStream;

/// The address that was called before the redirect.
///
/// # Errors
/// When the connection was not redirected, or the kernel does not say.
pub fn original_dst(stream: &TcpStream) -> io::Result<SocketAddr> {
    let socket = SockRef::from(stream);
    let address = if stream.local_addr()?.is_ipv6() { socket.original_dst_v6()? } else { socket.original_dst_v4()? };
    address.as_socket().ok_or_else(|| io::Error::other("the original destination is not an IP address"))
}
