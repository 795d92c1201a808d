//! The proxy, in a process of its own: what it holds is then its own. Configs go in by its standard input, one a line, and each
//! is answered by a line, so that nobody need guess when it is in force. It ends with its input, and so with who started it.

use std::{
    io::BufRead,
    net::{Ipv4Addr, SocketAddr},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use firebreak_proxy::{Identity, Proxy, Settings};
use firebreak_tests::cluster::metrics::Metrics;
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines},
    net::TcpStream,
    process::{ChildStderr, ChildStdin, Command},
    time::timeout,
};

use crate::books::Rest;

/// Two, so that what is shared between workers is shared.
const WORKERS: usize = 2;
/// How long the proxy may take to answer.
const PROMPT: Duration = Duration::from_secs(10);
const GRACE: Duration = Duration::from_secs(5);
/// The allocator gives pages back at once, so that what is resident is what is held, and not what may be wanted again.
const PURGE_DELAY: (&str, &str) = ("MIMALLOC_PURGE_DELAY", "0");

/// A proxy that was started.
pub(crate) struct Child {
    process: tokio::process::Child,
    pid: u32,
    admin: SocketAddr,
    configs: ChildStdin,
    answers: Lines<BufReader<ChildStderr>>,
}

/// Is the proxy: until standard input ends.
pub(crate) fn run() -> anyhow::Result<()> {
    let identity = Identity { name: "soak".to_owned(), ..Identity::default() };
    let admin = vec![(Ipv4Addr::LOCALHOST, 0).into()];
    let proxy = Proxy::start(Settings { workers: WORKERS, identity, admin, grace: GRACE, ..Settings::default() })?;
    eprintln!("{}", proxy.admin()[0]);
    for document in std::io::stdin().lock().lines() {
        let (report, listeners) = proxy.publish(document?.as_bytes());
        let closed: Vec<_> = listeners.iter().filter(|listener| listener.error.is_some()).collect();
        ensure!(closed.is_empty(), "listeners could not be opened: {closed:?}");
        ensure!(report.refused.is_none() && report.problems.is_empty() && report.ignored.is_empty(), "{report:?}");
        eprintln!("in force");
    }
    Ok(proxy.shutdown()?)
}

impl Child {
    /// Starts this program as a proxy. Its log is not read: it is there only so that it is written.
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.env(PURGE_DELAY.0, PURGE_DELAY.1);
        command.arg("proxy").stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut process = command.spawn()?;
        let configs = process.stdin.take().context("no standard input")?;
        let mut answers = BufReader::new(process.stderr.take().context("no standard error")?).lines();
        let pid = process.id().context("the proxy has ended at once")?;
        let admin = answers.next_line().await?.context("the proxy has not begun")?;
        let admin = admin.parse().with_context(|| format!("the proxy said: {admin}"))?;
        Ok(Self { process, pid, admin, configs, answers })
    }

    /// Puts a config in force.
    pub(crate) async fn publish(&mut self, document: &Value) -> anyhow::Result<()> {
        self.configs.write_all(format!("{document}\n").as_bytes()).await.context("the proxy has ended")?;
        match timeout(PROMPT, self.answers.next_line()).await.context("a config was not put in force")?? {
            Some(answer) if answer == "in force" => Ok(()),
            answer => bail!("a config was not put in force: {answer:?}\n{}", self.rest_of_words().await),
        }
    }

    /// What a proxy that ended says for itself.
    async fn rest_of_words(&mut self) -> String {
        let mut words = String::new();
        while let Ok(Ok(Some(line))) = timeout(PROMPT, self.answers.next_line()).await {
            words.push_str(&line);
            words.push('\n');
        }
        words
    }

    /// What the proxy counts.
    pub(crate) async fn metrics(&self) -> anyhow::Result<Metrics> {
        let ask = async {
            let mut stream = TcpStream::connect(self.admin).await?;
            stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n").await?;
            let mut text = String::new();
            stream.read_to_string(&mut text).await?;
            anyhow::Ok(text)
        };
        let text = timeout(PROMPT, ask).await.context("the admin port does not answer")??;
        ensure!(text.starts_with("HTTP/1.1 200"), "the admin port answers: {text}");
        Ok(Metrics::parse(&text))
    }

    /// What it holds now.
    pub(crate) async fn rest(&self) -> anyhow::Result<Rest> {
        Rest::of(self.pid, &self.metrics().await?)
    }

    /// Ends it; that it ends well is a part of the test.
    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        drop(self.configs);
        let status = timeout(GRACE * 2, self.process.wait()).await.context("the proxy does not end")??;
        ensure!(status.success(), "the proxy ended with {status}");
        Ok(())
    }
}
