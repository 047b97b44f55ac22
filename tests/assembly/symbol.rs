//! The names behind symbols.

/// The path behind the symbol of a plain function, `crate::module::name`, by either of Rust's two
/// manglings. Whatever it cannot read, it returns as it is.
pub fn demangle(symbol: &str) -> String {
    legacy(symbol).or_else(|| v0(symbol)).unwrap_or_else(|| symbol.to_owned())
}

/// `_ZN`, the parts of the path, the part `h` with a hash, `E`.
fn legacy(symbol: &str) -> Option<String> {
    let (parts, rest) = parts(symbol.strip_prefix("_ZN")?);
    let (hash, path) = parts.split_last()?;
    (rest == "E" && hash.len() == 17 && hash.starts_with('h')).then(|| path.join("::"))
}

/// `_R`, an `Nv` for the function and an `Nt` for each module, `C` and the crate's hash between
/// `s` and `_`, the parts of the path.
fn v0(symbol: &str) -> Option<String> {
    let in_modules = symbol.strip_prefix("_RNv")?.trim_start_matches("Nt");
    let (_hash, path) = in_modules.strip_prefix("Cs")?.split_once('_')?;
    let (parts, rest) = parts(path);
    rest.is_empty().then(|| parts.join("::"))
}

/// The parts at the beginning of `text`, each after its length, and what follows them.
fn parts(mut text: &str) -> (Vec<&str>, &str) {
    let mut parts = vec![];
    loop {
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, rest) = text.split_at(digits);
        match number.parse().ok().and_then(|length| rest.split_at_checked(length)) {
            Some((part, rest)) => {
                parts.push(part);
                text = rest;
            }
            None => return (parts, text),
        }
    }
}

#[test]
fn reads_both_manglings() {
    let slow = "lockword::raw::lock_slow";
    assert_eq!(demangle("_ZN8lockword3raw9lock_slow17h4d5a99defc180961E"), slow);
    assert_eq!(demangle("_RNvNtCsjrHSEGnQ3l9_8lockword3raw9lock_slow"), slow);
    // Others of the same crate, and such as only look alike.
    for other in [
        "_ZN8lockword5queue8wake_one17h4d5a99defc180961E",
        "_ZN8lockword3raw9lock_slow28_$u7b$$u7b$closure$u7d$$u7d$17h4d5a99defc180961E",
        "_RNCNvNtCsjrHSEGnQ3l9_8lockword3raw9lock_slow0",
        "_RNvNtCsjrHSEGnQ3l9_8lockword3raw16unlock_fair_slow",
        "_ZN5other8lockword3raw9lock_slow17h4d5a99defc180961E",
        "lockword3raw9lock_slow",
    ] {
        assert_ne!(demangle(other), slow, "{other}");
    }
}
