//! Which files are meant, and their text.

use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

/// The text of one file.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) name: String,
    pub(crate) text: String,
}

/// Why there is nothing to look at.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unreadable {
    /// A file or folder that cannot be read.
    #[error("cannot read {name}: {error}")]
    Io { name: String, error: io::Error },
    /// A folder without manifests, which is more likely a wrong name than a good result.
    #[error("no file below {0} ends in .yaml, .yml or .json: name another folder, or the files themselves")]
    Empty(String),
}

/// Larger manifests are refused: etcd holds no object above 1.5 MiB, and a file of this size holds hundreds.
const MAX_BYTES: u64 = 64 * 1024 * 1024;

/// The texts of `paths`: files as they are, folders with every manifest below them, `-` for standard input.
pub(crate) fn read(paths: &[PathBuf]) -> Result<Vec<Source>, Unreadable> {
    let mut sources = Vec::new();
    for path in paths {
        if path.as_os_str() == "-" {
            sources.push(read_stdin()?);
        } else if path.is_dir() {
            let found = read_folder(path)?;
            if found.is_empty() {
                return Err(Unreadable::Empty(path.display().to_string()));
            }
            sources.extend(found);
        } else {
            sources.push(read_file(path)?);
        }
    }
    Ok(sources)
}

/// Every manifest below `folder`, in the order of their names. Hidden files and folders are left out: editors keep
/// half-written copies there.
pub(crate) fn read_folder(folder: &Path) -> Result<Vec<Source>, Unreadable> {
    let mut files = Vec::new();
    collect(folder, &mut files)?;
    files.sort();
    files.iter().map(|path| read_file(path)).collect()
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<(), Unreadable> {
    let unreadable = |error| Unreadable::Io { name: folder.display().to_string(), error };
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let (path, kind) = (entry.path(), entry.file_type().map_err(unreadable)?);
        if entry.file_name().to_string_lossy().starts_with('.') {
            continue;
        }
        if kind.is_dir() {
            collect(&path, files)?;
        } else if is_manifest(&path) && path.is_file() {
            files.push(path);
        }
    }
    Ok(())
}

fn is_manifest(path: &Path) -> bool {
    path.extension().is_some_and(|extension| ["yaml", "yml", "json"].iter().any(|known| extension == *known))
}

fn read_file(path: &Path) -> Result<Source, Unreadable> {
    let name = path.display().to_string();
    let read = || -> io::Result<String> {
        let mut text = String::new();
        fs::File::open(path)?.take(MAX_BYTES).read_to_string(&mut text)?;
        Ok(text)
    };
    match read() {
        Ok(text) => Ok(Source { name, text }),
        Err(error) => Err(Unreadable::Io { name, error }),
    }
}

fn read_stdin() -> Result<Source, Unreadable> {
    let mut text = String::new();
    match io::stdin().lock().take(MAX_BYTES).read_to_string(&mut text) {
        Ok(_) => Ok(Source { name: "-".to_owned(), text }),
        Err(error) => Err(Unreadable::Io { name: "standard input".to_owned(), error }),
    }
}
