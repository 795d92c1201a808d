//! `firebreak lint` refuses each wrong YAML of the table with the words that the API server uses, and accepts the examples.

use std::{fs, process::Command};

use anyhow::ensure;
use firebreak_tests::{program, root, wrong};

fn lint(arguments: &[&str]) -> anyhow::Result<(bool, String)> {
    let output = Command::new(program("firebreak")?).arg("lint").args(arguments).output()?;
    let text = [output.stdout, output.stderr].concat();
    Ok((output.status.success(), String::from_utf8_lossy(&text).into_owned()))
}

#[test]
fn lint_refuses_each_wrong_yaml_and_says_why() -> anyhow::Result<()> {
    for case in wrong::table()? {
        let (accepted, said) = lint(&[&case.path.to_string_lossy()])?;
        ensure!(!accepted, "{} was accepted: {said}", case.name());
        ensure!(said.contains(&case.message), "{} was refused with: {said}", case.name());
    }
    Ok(())
}

#[test]
fn lint_accepts_the_examples_without_a_warning() -> anyhow::Result<()> {
    // One by one: they are steps of one story and replace each other's objects.
    let mut seen = 0;
    for example in fs::read_dir(root().join("examples"))? {
        let (accepted, said) = lint(&["--strict", &example?.path().to_string_lossy()])?;
        ensure!(accepted, "{said}");
        seen += 1;
    }
    ensure!(seen >= 4, "only {seen} examples");
    Ok(())
}
