//! The callees: two that are good, one of them slow, and others that go wrong, each in its own way.

use std::{future::Future, net::SocketAddr, sync::Arc, time::Duration};

use socket2::{Domain, SockRef, Socket, Type};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};

use crate::site::{self, Site};

const GARBAGE: &[u8] = b"\x00\x01\xfe\xff 200 nonsense\r\nno header\r\n\r\n\x00";
/// What the callee that breaks off says that its answer has.
pub(crate) const HALF_LENGTH: &[u8] = b"1000";
const HALF: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nhalf of it";

/// All callees.
pub(crate) struct Peers {
    /// Those that answer.
    pub(crate) good: Vec<SocketAddr>,
    /// Those that do not.
    pub(crate) bad: Vec<SocketAddr>,
    /// What the good ones know.
    pub(crate) site: Arc<Site>,
    hang_up: watch::Sender<()>,
    /// Bound, and not listening: whoever connects is refused, and nobody else gets the port.
    _refusing: Socket,
}

/// How a callee goes wrong.
#[derive(Clone, Copy)]
enum Wrong {
    /// Resets the connection after the first bytes.
    Reset,
    /// Takes everything and says nothing, as if no packet came back.
    HalfOpen,
    /// Answers with what is no HTTP.
    Garbage,
    /// Breaks off in the middle of an answer.
    Cut,
}

impl Peers {
    /// Starts them.
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let site = Arc::new(Site::default());
        let hang_up = watch::Sender::new(());
        let mut good = Vec::new();
        for slow in [false, true] {
            let site = Arc::clone(&site);
            good.push(listen(&hang_up, move |stream| site::serve(Arc::clone(&site), slow, stream)).await?);
        }
        let mut bad = Vec::new();
        for wrong in [Wrong::Reset, Wrong::HalfOpen, Wrong::Garbage, Wrong::Cut] {
            bad.push(listen(&hang_up, move |stream| misbehave(wrong, stream)).await?);
        }
        let refusing = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        refusing.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())?;
        bad.extend(refusing.local_addr()?.as_socket());
        Ok(Self { good, bad, site, hang_up, _refusing: refusing })
    }

    /// Ends all connections; new ones are served.
    pub(crate) fn hang_up(&self) {
        self.hang_up.send_replace(());
    }
}

/// Serves each connection until its end, or until all are hung up.
async fn listen<F: Future<Output = ()> + Send + 'static>(
    hang_up: &watch::Sender<()>,
    serve: impl Fn(TcpStream) -> F + Send + 'static,
) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    let hang_up = hang_up.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (served, mut hung_up) = (serve(stream), hang_up.subscribe());
            tokio::spawn(async move {
                tokio::select! {
                    () = served => {}
                    _ = hung_up.changed() => {}
                }
            });
        }
    });
    Ok(address)
}

async fn misbehave(wrong: Wrong, mut stream: TcpStream) {
    if matches!(wrong, Wrong::HalfOpen) {
        // Until the caller gives it up: what is held on its side must not be this one's fault.
        drop(tokio::io::copy(&mut stream, &mut tokio::io::sink()).await);
        return;
    }
    let _ = stream.read(&mut [0; 1024]).await;
    match wrong {
        Wrong::Garbage => drop(stream.write_all(GARBAGE).await),
        Wrong::Cut => drop(stream.write_all(HALF).await),
        Wrong::Reset | Wrong::HalfOpen => drop(SockRef::from(&stream).set_linger(Some(Duration::ZERO))),
    }
}
