//! The edges that must never exist. This test reads `src/`, the manifest and the lock file, and
//! fails on one.
//!
//! - `tokens.rs` turns source text into tokens, so that comments and strings cannot fool it;
//! - `paths.rs` finds every path a file names, through `use` trees, renamings and globs;
//! - `rules.rs` says which paths which file must not name;
//! - `made_up.rs` shows, on made-up sources, that each rule catches what it is for;
//! - `manifest.rs` says what the crate may depend on, and shows that its rules catch something.
#![cfg(not(lockword_loom))]

mod made_up;
mod manifest;
mod paths;
mod rules;
mod tokens;

use paths::Source;
use std::path::{Path, PathBuf};

/// Every `.rs` file under `folder`.
fn source_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("the folder is readable") {
        let path = entry.expect("the folder is readable").path();
        if path.is_dir() {
            source_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn src_has_no_forbidden_edge() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = vec![];
    source_files(&src, &mut files);
    let sources: Vec<Source> = files
        .iter()
        .map(|file| {
            let text = std::fs::read_to_string(file).expect("sources are UTF-8");
            let name = file.strip_prefix(&src).expect("found under src").to_string_lossy();
            Source::read(&name.replace('\\', "/"), &text)
        })
        .collect();
    let found = rules::check(&sources);
    assert!(found.is_empty(), "edges that must never exist:\n{}", found.join("\n"));

    // The reader works: it finds the edges that are known to be there.
    let names = |file: &str, path: &str| {
        let source = sources.iter().find(|source| source.file == file);
        source.is_some_and(|source| source.paths.iter().any(|p| p.starts_with(path)))
    };
    assert!(names("mutex.rs", "lock_api::"), "mutex.rs is built on lock_api");
    assert!(names("mutex.rs", "crate::raw"), "mutex.rs is built on raw.rs");
}
