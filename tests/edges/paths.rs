//! Which paths does a source file name? Resolved as far as the file alone allows: `self` and
//! `super`, `use` trees, renamings, globs, and the modules that the file declares.

use crate::tokens::{Token, tokens};
use std::collections::{BTreeSet, HashMap};

/// One file of `src/`, read.
pub struct Source {
    /// Where it lies under `src/`.
    pub file: String,
    /// Its module, as a path from `crate`.
    pub module: Vec<String>,
    /// Every path it names, absolute where that is known.
    pub paths: BTreeSet<String>,
    /// What the names at its top level stand for.
    pub aliases: HashMap<String, Vec<String>>,
    /// The items that it defines at its top level.
    pub items: BTreeSet<String>,
    /// The modules from which it takes in everything.
    pub globs: Vec<Vec<String>>,
    /// The files that it takes in by `#[path]` or `include!`.
    pub included: Vec<String>,
}

/// A path as written, and the module it was written in.
struct Named {
    path: Vec<String>,
    module: Vec<String>,
    /// By a `use` or an `extern crate`.
    imported: bool,
}

impl Source {
    /// Reads the text of `file`.
    pub fn read(file: &str, text: &str) -> Source {
        let module = module_of(file);
        let mut reader = Reader {
            tokens: tokens(text),
            at: 0,
            depth: 0,
            nested: vec![(0, module.clone())],
            aliases: HashMap::new(),
            items: BTreeSet::new(),
            globs: vec![],
            named: vec![],
            included: vec![],
        };
        reader.read();
        let Reader { aliases, items, globs, named, included, .. } = reader;
        let whole = |full: &Vec<String>| resolve(full, &module, &aliases);
        let globs: Vec<_> = globs.iter().map(whole).collect();
        let mut paths = BTreeSet::new();
        for Named { path, module, imported } in named {
            for glob in &globs {
                paths.insert([glob.as_slice(), &path].concat().join("::"));
            }
            // A lone name that stands for nothing else is a variable, a field, a keyword.
            let full = resolve(&path, &module, &aliases);
            if imported || full.len() > 1 {
                paths.insert(full.join("::"));
            }
        }
        let aliases = aliases.iter().map(|(name, full)| (name.clone(), whole(full))).collect();
        Source { file: file.to_owned(), module, paths, aliases, items, globs, included }
    }
}

/// `cluster/transports/etcd/mod.rs` is `crate::cluster::transports::etcd`.
fn module_of(file: &str) -> Vec<String> {
    let stem = file.strip_suffix(".rs").unwrap_or(file);
    let mut module = vec!["crate".to_owned()];
    module.extend(stem.split('/').map(str::to_owned));
    if matches!(module.last().map(String::as_str), Some("mod" | "lib" | "main")) {
        module.pop();
    }
    module
}

/// Makes `path`, written in `module`, absolute.
fn resolve(
    path: &[String],
    module: &[String],
    aliases: &HashMap<String, Vec<String>>,
) -> Vec<String> {
    let mut path = path.to_vec();
    // Each renaming may lead to another; a ring of them is cut short.
    for _ in 0..8 {
        match aliases.get(&path[0]) {
            Some(full) if full[0] != path[0] || full.len() > 1 => {
                path.splice(0..1, full.iter().cloned());
            }
            _ => break,
        }
        if path[0] == "crate" {
            break;
        }
    }
    let mut base = module.to_vec();
    let mut relative = false;
    let mut rest = path.as_slice();
    while let Some(first) = rest.first() {
        match first.as_str() {
            "self" => {}
            "super" => {
                base.pop();
            }
            _ => break,
        }
        relative = true;
        rest = &rest[1..];
    }
    if relative { [base.as_slice(), rest].concat() } else { path }
}

struct Reader {
    tokens: Vec<Token>,
    at: usize,
    depth: usize,
    /// The modules that the cursor is in, each with the brace depth at which it began.
    nested: Vec<(usize, Vec<String>)>,
    aliases: HashMap<String, Vec<String>>,
    items: BTreeSet<String>,
    globs: Vec<Vec<String>>,
    named: Vec<Named>,
    included: Vec<String>,
}

impl Reader {
    fn name_at(&self, at: usize) -> Option<&str> {
        match self.tokens.get(at) {
            Some(Token::Name(name)) => Some(name),
            _ => None,
        }
    }

    fn is(&self, at: usize, sign: char) -> bool {
        self.tokens.get(at) == Some(&Token::Sign(sign))
    }

    fn module(&self) -> Vec<String> {
        self.nested.last().expect("never empty").1.clone()
    }

    fn read(&mut self) {
        while self.at < self.tokens.len() {
            match &self.tokens[self.at] {
                Token::Sign('{') => self.depth += 1,
                Token::Sign('}') => {
                    self.depth = self.depth.saturating_sub(1);
                    if self.nested.last().is_some_and(|(depth, _)| *depth > self.depth) {
                        self.nested.pop();
                    }
                }
                Token::Name(name) => match name.as_str() {
                    "use" => {
                        self.at += 1;
                        self.use_tree(&mut vec![]);
                        continue;
                    }
                    "extern" if self.name_at(self.at + 1) == Some("crate") => {
                        self.at += 2;
                        self.use_tree(&mut vec![]);
                        continue;
                    }
                    "mod" => self.module_item(),
                    "path" if self.is(self.at + 1, '=') => self.text_after(2),
                    "include" | "include_str" | "include_bytes" if self.is(self.at + 1, '!') => {
                        self.text_after(3);
                    }
                    "struct" | "enum" | "union" | "type" | "trait" | "fn" | "const" | "static"
                        if self.depth == 0 =>
                    {
                        self.items.extend(self.name_at(self.at + 1).map(str::to_owned));
                    }
                    _ => {
                        self.plain_path();
                        continue;
                    }
                },
                _ => {}
            }
            self.at += 1;
        }
    }

    fn text_after(&mut self, ahead: usize) {
        if let Some(Token::Text(text)) = self.tokens.get(self.at + ahead) {
            self.included.push(text.clone());
        }
    }

    /// `mod name;` or `mod name {`; the cursor is on `mod`.
    fn module_item(&mut self) {
        let Some(name) = self.name_at(self.at + 1).map(str::to_owned) else { return };
        let mut module = self.module();
        module.push(name.clone());
        if self.is(self.at + 2, '{') {
            self.nested.push((self.depth + 1, module));
        } else if self.nested.len() == 1 {
            self.aliases.insert(name, module);
        }
    }

    /// A path outside of a `use`; leaves the cursor after it.
    fn plain_path(&mut self) {
        // What follows a dot is a field or a method, not a path.
        let member = self.at > 0 && self.is(self.at - 1, '.') && !self.is(self.at - 2, '.');
        let mut path = vec![];
        while let Some(name) = self.name_at(self.at) {
            path.push(name.to_owned());
            self.at += 1;
            if self.tokens.get(self.at) != Some(&Token::PathSeparator) {
                break;
            }
            if self.name_at(self.at + 1).is_some() {
                self.at += 1;
            } else {
                break;
            }
        }
        if !member {
            self.named.push(Named { path, module: self.module(), imported: false });
        }
    }

    /// One tree of a `use`, of which `prefix` came before; leaves the cursor after the tree.
    fn use_tree(&mut self, prefix: &mut Vec<String>) {
        let outer = prefix.len();
        let mut rename = None;
        let mut leaf = true;
        loop {
            match self.tokens.get(self.at).cloned() {
                Some(Token::PathSeparator) => {}
                Some(Token::Name(name)) if name == "as" => {
                    self.at += 1;
                    rename = self.name_at(self.at).map(str::to_owned);
                }
                Some(Token::Name(name)) => {
                    // `a::{self}` is `a`.
                    if name != "self" || prefix.is_empty() {
                        prefix.push(name);
                    }
                }
                Some(Token::Sign('*')) => {
                    let glob = resolve(prefix, &self.module(), &HashMap::new());
                    self.globs.push(glob);
                    self.named.push(Named {
                        path: prefix.clone(),
                        module: self.module(),
                        imported: true,
                    });
                    leaf = false;
                }
                Some(Token::Sign('{')) => {
                    self.at += 1;
                    while self.at < self.tokens.len() && !self.is(self.at, '}') {
                        self.use_tree(prefix);
                        if self.is(self.at, ',') {
                            self.at += 1;
                        }
                    }
                    leaf = false;
                }
                _ => break,
            }
            self.at += 1;
        }
        if leaf && !prefix.is_empty() {
            let module = self.module();
            let full = resolve(prefix, &module, &HashMap::new());
            let name = rename.or_else(|| prefix.last().cloned()).expect("not empty");
            self.aliases.insert(name, full);
            self.named.push(Named { path: prefix.clone(), module, imported: true });
        }
        prefix.truncate(outer);
    }
}

#[test]
fn paths_are_found_however_they_are_written() {
    let source = Source::read(
        "cluster/lock.rs",
        "use std::{io as i, net::{self, TcpStream as T}, fmt::Debug};
         use super::{error::Error, config};
         extern crate alloc as heap;
         mod inner { use super::super::driver; fn f() { super::g(); self::h() } }
         fn f(x: T) { i::stdin(); net::lookup(); heap::vec::Vec::<config::A>::new(); x.lock() }
         fn g() { ::core::mem::drop(crate::raw::RawLock::new()) }
         use std::time::*;
         static S: Option<Instant> = None;",
    );
    assert_eq!(source.module.join("::"), "crate::cluster::lock");
    for path in [
        "std::io",
        "std::io::stdin",
        "std::net",
        "std::net::TcpStream",
        "std::net::lookup",
        "std::fmt::Debug",
        "crate::cluster::error::Error",
        "crate::cluster::builder::A",
        "crate::cluster::local::driver",
        "crate::cluster::lock::g",
        "crate::cluster::lock::inner::h",
        "alloc::vec::Vec",
        "core::mem::drop",
        "crate::raw::RawLock::new",
        "std::time::Instant",
    ] {
        assert!(source.paths.contains(path), "{path} not in {:#?}", source.paths);
    }
    assert!(!source.paths.contains("lock"), "a method is not a path");
}
