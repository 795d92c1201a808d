//! `firebreak lint` as its users run it: what it prints and how it exits.

#![allow(clippy::unwrap_used, reason = "a helper of tests may fail the test")]

use std::{
    fs,
    io::Write,
    path::PathBuf,
    process::{Command, Output, Stdio},
};

use serde_json::Value;

const GOOD: &str = "
apiVersion: firebreak.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: a, namespace: shop}
spec:
  targetRefs: [{kind: Service, name: a}]
  timeouts: {attempt: 300ms, request: 3s}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: other}
";
const BAD: &str = "
apiVersion: firebreak.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: a, namespace: shop}
spec:
  targetRefs: [{kind: Service, name: a}]
  timeouts: {attempt: 5s, request: 3s}
";
const DOUBTFUL: &str = "
apiVersion: firebreak.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: a, namespace: shop}
spec:
  targetRefs: [{kind: Service, name: a}]
  retries: {codes: [429]}
";

fn lint(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_firebreak")).arg("lint").args(args).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// A file of this text, named after the test so that tests do not meet.
fn file(test: &str, content: &str) -> (PathBuf, String) {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(test);
    fs::create_dir_all(&folder).unwrap();
    let path = folder.join("policy.yaml");
    fs::write(&path, content).unwrap();
    let name = path.display().to_string();
    (folder, name)
}

#[test]
fn good_files_pass() {
    let (_, name) = file("good", GOOD);
    let output = lint(&[&name]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(stdout(&output), "1 object, no problems (1 object of another kind not looked at)\n");
}

#[test]
fn errors_are_one_line_each_and_exit_1() {
    let (folder, name) = file("bad", BAD);
    let output = lint(&[&folder.display().to_string()]);
    assert_eq!(output.status.code(), Some(1));
    let expected = format!(
        "{name}:7:3: error: TrafficPolicy shop/a: spec.timeouts: attempt is longer than request: one try could never finish; \
         shorten attempt or lengthen request\n1 object, 1 error, 0 warnings\n"
    );
    assert_eq!(stdout(&output), expected, "plain, since this is no terminal");
}

#[test]
fn warnings_are_errors_only_when_strict() {
    let (_, name) = file("doubtful", DOUBTFUL);
    let output = lint(&[&name]);
    assert_eq!(output.status.code(), Some(0));
    assert!(stdout(&output).contains(":7:13: warning: TrafficPolicy shop/a: spec.retries.codes: is not used"));
    assert_eq!(lint(&[&name, "--strict"]).status.code(), Some(1));
}

#[test]
fn json_is_for_programs() {
    let (_, name) = file("json", BAD);
    let output = lint(&["--json", &name]);
    assert_eq!(output.status.code(), Some(1));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["objects"], &report["errors"], &report["warnings"]), (&1.into(), &1.into(), &0.into()));
    let finding = &report["findings"][0];
    assert_eq!(
        (&finding["severity"], &finding["line"], &finding["field"]),
        (&"error".into(), &7.into(), &"spec.timeouts".into())
    );
    assert_eq!(finding["object"]["name"], "a");
}

#[test]
fn standard_input_and_broken_yaml() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_firebreak"))
        .args(["lint", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(format!("{GOOD}---\na: [1\nb: 2\n").as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = stdout(&output);
    assert!(text.contains("error: not valid YAML: ") && text.contains("1 object, 1 error"), "{text}");
}

#[test]
fn what_cannot_be_read_exits_2() {
    let output = lint(&["/nonexistent/policy.yaml"]);
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.starts_with("error: cannot read /nonexistent/policy.yaml: "), "{text}");
    assert_eq!(lint(&[]).status.code(), Some(2), "no file named");
    let (folder, _) = file("empty", GOOD);
    fs::rename(folder.join("policy.yaml"), folder.join("policy.txt")).unwrap();
    let output = lint(&[&folder.display().to_string()]);
    assert_eq!(output.status.code(), Some(2), "a wrong folder must not pass in CI");
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("ends in .yaml, .yml or .json: name another folder"), "{text}");
}
