//! `firebreak selftest` as the chart's test runs it.

#![allow(clippy::unwrap_used, reason = "a helper of tests may fail the test")]

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Output, Stdio},
};

struct Server(Child, String);

impl Server {
    fn start() -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_firebreak"))
            .args(["selftest", "serve", "--listen", "127.0.0.1:0"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening on ").unwrap().to_owned();
        Self(child, address)
    }

    fn call(&self, path: &str, more: &[&str]) -> Output {
        let url = format!("http://{}{path}", self.1);
        Command::new(env!("CARGO_BIN_EXE_firebreak")).args(["selftest", "call", &url]).args(more).output().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn calls_succeed_only_when_they_are_as_expected() {
    let server = Server::start();
    let plain = server.call("/", &[]);
    assert_eq!((plain.status.code(), plain.stdout.as_slice()), (Some(0), b"200 \n".as_slice()));
    assert_eq!(server.call("/status/503", &["--expect-status", "503"]).status.code(), Some(0));
    assert_eq!(server.call("/status/503", &["--expect-status", "200"]).status.code(), Some(1));
    assert_eq!(
        server.call("/", &["--expect-reason", "attempt_timeout"]).status.code(),
        Some(1),
        "no proxy gave a reason"
    );
}

#[test]
fn nothing_there_is_no_success() {
    let address = Server::start().1.clone();
    let url = format!("http://{address}/");
    let output = Command::new(env!("CARGO_BIN_EXE_firebreak")).args(["selftest", "call", &url]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with("error: cannot connect to "), "{text}");
}
