//! Source text to tokens: as much of Rust's lexer as it takes to tell code from the rest.

/// A piece of code.
#[derive(Clone, Debug, PartialEq)]
pub enum Token {
    /// An identifier or keyword; `r#` is left off.
    Name(String),
    /// What stands between the quotes of a string literal.
    Text(String),
    /// `::`
    PathSeparator,
    /// Any other single character that is not part of a number, a lifetime or a comment.
    Sign(char),
}

/// The tokens of `source`, without comments, numbers, lifetimes and character literals.
pub fn tokens(source: &str) -> Vec<Token> {
    let chars: Vec<char> = source.chars().collect();
    let mut lexer = Lexer { chars: &chars, at: 0 };
    let mut tokens = vec![];
    while lexer.at < chars.len() {
        lexer.step(&mut tokens);
    }
    tokens
}

struct Lexer<'a> {
    chars: &'a [char],
    at: usize,
}

impl Lexer<'_> {
    fn peek(&self, ahead: usize) -> char {
        self.chars.get(self.at + ahead).copied().unwrap_or('\0')
    }

    fn step(&mut self, tokens: &mut Vec<Token>) {
        match (self.peek(0), self.peek(1)) {
            ('/', '/') => self.skip_while(|c| c != '\n'),
            ('/', '*') => self.skip_block_comment(),
            ('"', _) => tokens.push(Token::Text(self.string())),
            ('\'', _) => self.skip_quote(),
            (':', ':') => {
                self.at += 2;
                tokens.push(Token::PathSeparator);
            }
            (c, _) if c.is_whitespace() => self.at += 1,
            (c, _) if c.is_ascii_digit() => self.skip_while(is_name_part),
            (c, _) if is_name_part(c) => self.name(tokens),
            (c, _) => {
                self.at += 1;
                tokens.push(Token::Sign(c));
            }
        }
    }

    fn skip_while(&mut self, keep: impl Fn(char) -> bool) {
        while self.at < self.chars.len() && keep(self.chars[self.at]) {
            self.at += 1;
        }
    }

    /// Block comments nest.
    fn skip_block_comment(&mut self) {
        let mut depth = 0;
        while self.at < self.chars.len() {
            match (self.peek(0), self.peek(1)) {
                ('/', '*') => {
                    depth += 1;
                    self.at += 2;
                }
                ('*', '/') => {
                    depth -= 1;
                    self.at += 2;
                    if depth == 0 {
                        return;
                    }
                }
                _ => self.at += 1,
            }
        }
    }

    /// A string in which a backslash escapes; the cursor is on its opening quote.
    fn string(&mut self) -> String {
        let start = self.at + 1;
        self.at = start;
        while self.at < self.chars.len() && self.peek(0) != '"' {
            self.at += if self.peek(0) == '\\' { 2 } else { 1 };
        }
        let end = self.at.min(self.chars.len());
        self.at = end + 1;
        self.chars[start..end].iter().collect()
    }

    /// A raw string; the cursor is on its first `#` or quote.
    fn raw_string(&mut self) -> String {
        let start = self.at;
        self.skip_while(|c| c == '#');
        let hashes = self.at - start;
        self.at += 1;
        let start = self.at;
        while self.at < self.chars.len() {
            if self.peek(0) == '"' && (1..=hashes).all(|ahead| self.peek(ahead) == '#') {
                break;
            }
            self.at += 1;
        }
        let text = self.chars[start..self.at].iter().collect();
        self.at += 1 + hashes;
        text
    }

    /// A character literal or a lifetime; the cursor is on the quote.
    fn skip_quote(&mut self) {
        if self.peek(1) == '\\' {
            // The escaped character is never the closing quote.
            self.at += 3;
            self.skip_while(|c| c != '\'');
            self.at += 1;
        } else if self.peek(2) == '\'' {
            self.at += 3;
        } else {
            self.at += 1;
            self.skip_while(is_name_part);
        }
    }

    /// An identifier, or the prefix of a literal.
    fn name(&mut self, tokens: &mut Vec<Token>) {
        let start = self.at;
        self.skip_while(is_name_part);
        let name: String = self.chars[start..self.at].iter().collect();
        match (name.as_str(), self.peek(0)) {
            ("b" | "c", '"') => tokens.push(Token::Text(self.string())),
            ("b", '\'') => self.skip_quote(),
            ("r" | "br" | "cr", '"') => tokens.push(Token::Text(self.raw_string())),
            ("r" | "br" | "cr", '#') => {
                let hashes = self.chars[self.at..].iter().take_while(|c| **c == '#').count();
                if self.peek(hashes) == '"' {
                    tokens.push(Token::Text(self.raw_string()));
                } else {
                    // `r#name`: the name follows.
                    self.at += 1;
                }
            }
            _ => tokens.push(Token::Name(name)),
        }
    }
}

fn is_name_part(c: char) -> bool {
    c == '_' || c.is_alphanumeric()
}

#[test]
fn only_code_is_left() {
    let source = r###"
        // line std::sync::atomic
        /* block /* nested */ still "a comment */
        a::b("text \" more", 'x', '"', '\'', b'"', '\u{41}', "x") /// doc
        fn c<'life>(d: &'life str) -> r#type { r#"raw " text"# ; b"bytes"; r"\" }
        1_000u64
    "###;
    let names: Vec<String> = tokens(source)
        .into_iter()
        .filter_map(|token| if let Token::Name(name) = token { Some(name) } else { None })
        .collect();
    assert_eq!(names, ["a", "b", "fn", "c", "d", "str", "type"]);
    let texts: Vec<String> = tokens(source)
        .into_iter()
        .filter_map(|token| if let Token::Text(text) = token { Some(text) } else { None })
        .collect();
    assert_eq!(texts, ["text \\\" more", "x", "raw \" text", "bytes", "\\"]);
}
