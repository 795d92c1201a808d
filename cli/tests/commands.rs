//! What the command line says about itself.

#![allow(clippy::unwrap_used, reason = "a helper of tests may fail the test")]

use std::{fs, io::pipe, os::unix::fs::symlink, path::PathBuf, process::Command};

fn firebreak(program: &str, args: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(program).args(args).output().unwrap();
    (output.status.code(), String::from_utf8(output.stdout).unwrap())
}

const PROGRAM: &str = env!("CARGO_BIN_EXE_firebreak");

#[test]
fn every_command_has_help_with_examples() {
    let (code, text) = firebreak(PROGRAM, &["--help"]);
    assert_eq!(code, Some(0));
    assert!(text.contains("Examples:\n  firebreak demo"), "{text}");
    for command in ["demo", "lint", "local", "explain", "completion", "version"] {
        assert!(text.contains(&format!("  {command} ")), "{command} is not in {text}");
        let (code, help) = firebreak(PROGRAM, &[command, "--help"]);
        assert_eq!(code, Some(0));
        let (_, examples) = help.split_once("Examples:\n").unwrap();
        assert!(examples.starts_with("  firebreak "), "{command}: {help}");
        let wide: Vec<&str> = examples.lines().filter(|line| line.chars().count() > 80).collect();
        assert!(wide.is_empty(), "a terminal would break them: {wide:#?}");
    }
    assert!(!text.contains("selftest"), "of no use to people");
}

#[test]
fn as_a_plugin_it_calls_itself_kubectl_firebreak() {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("plugin");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    let plugin = folder.join("kubectl-firebreak");
    symlink(PROGRAM, &plugin).unwrap();
    let (code, text) = firebreak(plugin.to_str().unwrap(), &["lint", "--help"]);
    assert_eq!(code, Some(0));
    assert!(text.contains("Usage: kubectl firebreak lint"), "{text}");
}

#[test]
fn the_version_is_the_packages() {
    let expected = format!("firebreak {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(firebreak(PROGRAM, &["version"]), (Some(0), expected.clone()));
    assert_eq!(firebreak(PROGRAM, &["--version"]), (Some(0), expected));
}

#[test]
fn completion_knows_the_commands() {
    for shell in ["bash", "zsh", "fish"] {
        let (code, script) = firebreak(PROGRAM, &["completion", shell]);
        assert_eq!(code, Some(0));
        assert!(script.contains("local") && script.contains("demo"), "{shell}");
    }
}

/// Runs a command whose reader goes away at once.
fn unread(args: &[&str]) -> (Option<i32>, String) {
    let (reader, writer) = pipe().unwrap();
    drop(reader);
    let output = Command::new(PROGRAM).args(args).stdout(writer).output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn a_reader_who_has_seen_enough_is_no_error() {
    let examples = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples");
    for args in [&["completion", "bash"][..], &["lint", examples], &["lint", "--json", examples], &["version"]] {
        assert_eq!(unread(args), (Some(0), String::new()), "{args:?}");
    }
}

#[test]
fn without_a_command_it_explains_itself() {
    let output = Command::new(PROGRAM).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().contains("Usage: firebreak <COMMAND>"));
}
