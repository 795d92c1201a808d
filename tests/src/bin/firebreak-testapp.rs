//! The test application. See [`firebreak_tests::app`].

use bytes::Bytes;
use clap::Parser;
use firebreak_tests::app::{self, call, hold, serve, tcp};
use http::{Method, Request, Uri};
use http_body_util::{BodyExt, Full};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};

/// Service or caller in the tests of Firebreak
#[derive(Debug, Parser)]
enum Command {
    /// Answer requests
    Serve(serve::Ports),
    /// Send requests and print what became of them
    Call(call::Call),
    /// Hold a stream open until standard input ends
    Hold { kind: hold::Kind, authority: String },
    /// Print the body of a page
    Get { url: Uri },
    /// Exchange lines over TCP
    Talk(tcp::Talk),
    /// Tell the service in this pod how to behave, as JSON
    Behave {
        behaviour: String,
        #[arg(long, default_value_t = app::CONTROL_PORT)]
        port: u16,
    },
    /// Print what the service in this pod has seen
    Record {
        #[arg(long, default_value_t = app::CONTROL_PORT)]
        port: u16,
    },
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    match Command::parse() {
        Command::Serve(ports) => serve::run(ports).await,
        Command::Call(call) => print(&call::run(call).await?),
        Command::Hold { kind, authority } => hold::run(kind, &authority).await,
        Command::Get { url } => ask(Method::GET, url, String::new()).await,
        Command::Talk(talk) => print(&tcp::talk(talk).await?),
        Command::Behave { behaviour, port } => control(Method::POST, port, "behaviour", behaviour).await,
        Command::Record { port } => control(Method::GET, port, "record", String::new()).await,
    }
}

fn print(report: &impl serde::Serialize) -> anyhow::Result<()> {
    println!("{}", serde_json::to_string(report)?);
    Ok(())
}

/// Asks the service in this pod.
async fn control(method: Method, port: u16, path: &str, body: String) -> anyhow::Result<()> {
    ask(method, format!("http://127.0.0.1:{port}/{path}").parse()?, body).await
}

async fn ask(method: Method, uri: Uri, body: String) -> anyhow::Result<()> {
    let request = Request::builder().method(method).uri(uri).body(Full::new(Bytes::from(body)))?;
    let response = Client::builder(TokioExecutor::new()).build_http().request(request).await?;
    let status = response.status();
    let answer = String::from_utf8(response.into_body().collect().await?.to_bytes().to_vec())?;
    anyhow::ensure!(status.is_success(), "{status}: {answer}");
    println!("{answer}");
    Ok(())
}
