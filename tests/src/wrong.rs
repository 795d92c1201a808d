//! The table of wrong YAML, `tests/wrong/*.yaml`: each file begins with the words that its refusal must contain. Both who can
//! refuse it, the API server and `firebreak lint`, are held to the same table.

use std::{fs, path::PathBuf};

use anyhow::{Context, ensure};

use crate::root;

const MARK: &str = "# expect: ";

/// One wrong YAML.
#[derive(Debug)]
pub struct Case {
    /// The file.
    pub path: PathBuf,
    /// Words that its refusal must contain.
    pub message: String,
}

impl Case {
    /// What is wrong, in short.
    pub fn name(&self) -> String {
        self.path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
    }
}

/// All cases, by name.
pub fn table() -> anyhow::Result<Vec<Case>> {
    let folder = root().join("tests/wrong");
    let mut cases = Vec::new();
    for entry in fs::read_dir(&folder)? {
        let path = entry?.path();
        let text = fs::read_to_string(&path)?;
        let message = text.lines().find_map(|line| line.strip_prefix(MARK));
        let message = message.with_context(|| format!("{} does not say what to expect", path.display()))?.to_owned();
        cases.push(Case { path, message });
    }
    ensure!(!cases.is_empty(), "{} is empty", folder.display());
    cases.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(cases)
}

/// An example with one part replaced, which must be there.
pub fn renamed(example: &str, from: &str, to: &str) -> anyhow::Result<String> {
    let text = fs::read_to_string(root().join("examples").join(example))?;
    ensure!(text.contains(from), "{example} does not contain {from}");
    Ok(text.replace(from, to))
}
