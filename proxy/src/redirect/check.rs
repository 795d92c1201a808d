//! Whether redirection works, found out by trying.
//!
//! The check listens where the proxy would, connects to an address that nobody has (RFC 5737, RFC 3849), and expects
//! that very connection to arrive with that address as its original destination. It needs no privilege, and catches
//! whatever keeps rules from acting: missing modules, another table in front, a CNI that connects at the socket.

use std::{
    io::{self, ErrorKind},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use firebreak_crds::redirect::Cidr;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::OutboundArgs;

/// An address of TEST-NET-1, which no network may use.
const NOBODY_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
/// An address of the documentation prefix, which no network may use.
const NOBODY_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));
/// A connection inside the kernel takes microseconds; one that takes this long went elsewhere.
const PATIENCE: Duration = Duration::from_secs(2);

/// The address families for which redirection was seen to work. False: the family has no route, or is exempt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Proof {
    /// IPv4.
    pub ipv4: bool,
    /// IPv6.
    pub ipv6: bool,
}

/// Why redirection cannot be relied upon.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// A connection went past the proxy.
    #[error(
        "redirection is not in force: a connection to {target} did not arrive at port {port} ({cause}). Look for another \
         component that handles the pod's connections first (a CNI with socket-level load balancing, for one), and for \
         `nft list table inet firebreak` in the pod's network namespace"
    )]
    NotRedirected {
        /// Where it was sent.
        target: SocketAddr,
        /// Where it should have arrived.
        port: u16,
        /// What happened instead.
        cause: String,
    },
    /// There is nothing to try it with.
    #[error("redirection cannot be checked: the network namespace has no default route for IPv4 or IPv6")]
    NoRoute,
    /// The check itself failed.
    #[error("redirection cannot be checked: {step}: {source}")]
    Io {
        /// What was being done.
        step: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

/// Tries both address families. A family without a route has nothing that could pass the proxy by, and is no error.
pub fn prove(args: &OutboundArgs) -> Result<Proof, CheckError> {
    Ok(Proof { ipv4: prove_family(args, NOBODY_V4)?, ipv6: prove_family(args, NOBODY_V6)? })
}

fn prove_family(args: &OutboundArgs, nobody: IpAddr) -> Result<bool, CheckError> {
    let Some(target) = target(args, nobody) else { return Ok(false) };
    let port = args.outbound_port;
    let Some(listener) = listen(target, port)? else { return Ok(false) };
    let client = stream(target)?;
    match client.connect_timeout(&target.into(), PATIENCE) {
        Ok(()) => {}
        Err(error) if unroutable(&error) => return Ok(false),
        Err(error) => return Err(CheckError::NotRedirected { target, port, cause: error.to_string() }),
    }
    match listener {
        Listener::Ours(listener) => arrived(&listener, &client, target, port).map(|()| true),
        // The step runs again beside a proxy that listens already: whoever accepted has this port.
        Listener::Proxy => Ok(true),
    }
}

/// Who listens at the proxy's port.
enum Listener {
    Ours(Socket),
    Proxy,
}

/// Listens where the proxy would; `None` when the system does not have the family.
fn listen(target: SocketAddr, port: u16) -> Result<Option<Listener>, CheckError> {
    let socket = match stream(target) {
        Err(CheckError::Io { source, .. }) if unroutable(&source) => return Ok(None),
        other => other?,
    };
    let any: IpAddr = if target.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let bound = (|| {
        if target.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.set_reuse_address(true)?;
        socket.bind(&SocketAddr::new(any, port).into())?;
        socket.listen(16)?;
        socket.set_read_timeout(Some(PATIENCE))
    })();
    match bound {
        Ok(()) => Ok(Some(Listener::Ours(socket))),
        Err(error) if error.kind() == ErrorKind::AddrInUse => Ok(Some(Listener::Proxy)),
        Err(error) if unroutable(&error) => Ok(None),
        Err(source) => Err(CheckError::Io { step: "listening at the proxy's port", source }),
    }
}

/// Waits for the connection of `client` and looks at where it was going. Others that come meanwhile are let go.
fn arrived(listener: &Socket, client: &Socket, target: SocketAddr, port: u16) -> Result<(), CheckError> {
    let strayed = |cause: String| CheckError::NotRedirected { target, port, cause };
    let local = address(client.local_addr())?;
    loop {
        let (accepted, peer) = listener.accept().map_err(|error| strayed(error.to_string()))?;
        if peer.as_socket() == Some(local) {
            let accepted = SockRef::from(&accepted);
            let original = if target.is_ipv4() { accepted.original_dst_v4() } else { accepted.original_dst_v6() };
            let original = address(original)?;
            return if original == target {
                Ok(())
            } else {
                Err(strayed(format!("its destination became {original}")))
            };
        }
    }
}

/// An address that the rules do not exempt; `None` when the user exempts everything that could be tried.
fn target(args: &OutboundArgs, nobody: IpAddr) -> Option<SocketAddr> {
    let exempt = |cidr: &Cidr| cidr.contains(nobody);
    if args.skip_outbound_cidrs.iter().any(exempt) {
        return None;
    }
    let port = (80..=u16::MAX).find(|port| !args.skip_outbound_ports.iter().any(|range| range.contains(*port)))?;
    Some(SocketAddr::new(nobody, port))
}

fn stream(target: SocketAddr) -> Result<Socket, CheckError> {
    Socket::new(Domain::for_address(target), Type::STREAM, Some(Protocol::TCP))
        .map_err(|source| CheckError::Io { step: "making a socket", source })
}

fn address(found: io::Result<socket2::SockAddr>) -> Result<SocketAddr, CheckError> {
    found
        .and_then(|address| address.as_socket().ok_or_else(|| ErrorKind::InvalidData.into()))
        .map_err(|source| CheckError::Io { step: "reading a socket's address", source })
}

/// Whether an error means that the system has no way to reach the address at all.
fn unroutable(error: &io::Error) -> bool {
    /// `EAFNOSUPPORT`: the kernel was built or started without IPv6.
    const NO_SUCH_FAMILY: i32 = 97;
    matches!(error.kind(), ErrorKind::NetworkUnreachable | ErrorKind::HostUnreachable | ErrorKind::AddrNotAvailable)
        || error.raw_os_error() == Some(NO_SUCH_FAMILY)
}
