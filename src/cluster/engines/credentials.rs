//! User and password of the engines' logins, and where each login gets them from: they may change while
//! connections are open.

use super::connect::ConnectError;
use super::file::open_regular;
use crate::cluster::Cause;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use std::fmt;
use std::io::{self, Read};
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::time::{Instant, timeout};

/// The longest password in a file, in bytes. (A signed token has some thousands.)
const LONGEST_PASSWORD: u64 = 64 * 1024;

/// User and password for one login: what a function that was given to `credentials_by` of an engine's
/// builder returns. `Debug` shows neither.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    pub(crate) user: Option<String>,
    pub(crate) password: Option<String>,
}

impl Credentials {
    /// This user with this password, or with what stands for one, such as a token.
    pub fn new(user: impl Into<String>, password: impl Into<String>) -> Self {
        Self { user: Some(user.into()), password: Some(password.into()) }
    }

    /// This password for the user of the address or of the builder.
    pub fn password_only(password: impl Into<String>) -> Self {
        Self { user: None, password: Some(password.into()) }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").finish_non_exhaustive()
    }
}

/// Where each login gets its user and its password from.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct LoginSource {
    pub(crate) user: Option<String>,
    pub(crate) password: PasswordSource,
}

/// Where each login gets its password from.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) enum PasswordSource {
    #[default]
    None,
    Fixed(String),
    /// The content of this file, without the end of its line.
    File(PathBuf),
    /// What this returns, with its user if it names one.
    Callback(CredentialCallback),
}

/// A function of the user's that returns credentials.
#[derive(Clone)]
pub(crate) struct CredentialCallback(Arc<CredentialFunction>);

type CredentialFunction = dyn Fn() -> BoxFuture<'static, Result<Credentials, Cause>> + Send + Sync;

impl CredentialCallback {
    pub(crate) fn new<F, E>(ask: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<Credentials, E>> + Send + 'static,
        E: Into<Cause>,
    {
        Self(Arc::new(move || ask().map(|result| result.map_err(Into::into)).boxed()))
    }
}

/// Two callbacks are equal if they are the same function object.
impl PartialEq for CredentialCallback {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for CredentialCallback {}

impl LoginSource {
    /// Whether there is something secret to send.
    pub(crate) fn has_password(&self) -> bool {
        self.password != PasswordSource::None
    }

    /// Whether no user has to be set: there is no password, or the callback may name the user.
    #[cfg(feature = "etcd")]
    pub(crate) fn needs_no_user(&self) -> bool {
        matches!(self.password, PasswordSource::None | PasswordSource::Callback(_))
    }

    /// Whether another look may find other credentials.
    fn can_change(&self) -> bool {
        matches!(self.password, PasswordSource::File(_) | PasswordSource::Callback(_))
    }

    /// The credentials as they are now.
    ///
    /// # Errors
    ///
    /// [`ConnectError::Credentials`] if the file cannot be read or the callback fails, and when half of the time until
    /// `end` is over.
    async fn credentials(&self, end: Instant) -> Result<Credentials, ConnectError> {
        let limit = end.saturating_duration_since(Instant::now()) / 2;
        let mut found = match &self.password {
            PasswordSource::None => Credentials::default(),
            PasswordSource::Fixed(password) => Credentials::password_only(password),
            PasswordSource::File(file) => {
                let path = file.clone();
                // It may be on a slow file system.
                let read = tokio::task::spawn_blocking(move || read_password(&path));
                let password = match timeout(limit, read).await {
                    Ok(Ok(Ok(password))) => Ok(password),
                    Ok(Ok(Err(why))) => Err(why.to_string()),
                    Ok(Err(_)) => Err("the runtime that was to read it has ended".to_owned()),
                    Err(_) => Err("it could not be read in time".to_owned()),
                };
                let failed = |why| {
                    let cause = format!("password_file={}: {why}", file.display()).into();
                    ConnectError::Credentials { cause }
                };
                Credentials::password_only(password.map_err(failed)?)
            }
            PasswordSource::Callback(CredentialCallback(ask)) => {
                let asked = AssertUnwindSafe(async { ask().await }).catch_unwind();
                let result = match timeout(limit, asked).await {
                    Ok(Ok(result)) => result,
                    Ok(Err(_)) => Err("the function of credentials_by has panicked".into()),
                    Err(_) => Err("the function of credentials_by did not return in time".into()),
                };
                result.map_err(|cause| ConnectError::Credentials { cause })?
            }
        };
        if found.user.is_none() {
            found.user.clone_from(&self.user);
        }
        Ok(found)
    }

    /// Runs `attempt` with the present credentials, and once more if they are refused and have changed: the
    /// file may have been replaced in between. `end`: when `attempt` ends by itself.
    ///
    /// # Errors
    ///
    /// That of the last attempt; or [`ConnectError::Credentials`] if there are no credentials for the first one.
    pub(crate) async fn log_in<T, E, F>(
        &self,
        end: Instant,
        is_refused: impl Fn(&E) -> bool,
        attempt: impl Fn(Credentials) -> F,
    ) -> Result<T, E>
    where
        E: From<ConnectError>,
        F: Future<Output = Result<T, E>>,
    {
        let first = self.credentials(end).await?;
        let result = attempt(first.clone()).await;
        if self.can_change()
            && result.as_ref().is_err_and(is_refused)
            && let Ok(second) = self.credentials(end).await
            && second != first
        {
            return attempt(second).await;
        }
        result
    }

    /// Where the password of a login that was refused came from, if that may change.
    pub(crate) fn origin(&self) -> Option<String> {
        match &self.password {
            PasswordSource::None | PasswordSource::Fixed(_) => None,
            PasswordSource::File(file) => Some(format!(
                "the password is that of password_file={}, which each login reads again",
                file.display()
            )),
            PasswordSource::Callback(_) => {
                Some("the password is that of credentials_by, which each login calls again".into())
            }
        }
    }

    /// Adds that to the error of a login that was refused.
    #[cfg(any(feature = "redis", feature = "postgres"))]
    pub(crate) fn explain(&self, error: ConnectError) -> ConnectError {
        match self.origin() {
            Some(origin) if matches!(error, ConnectError::Denied { .. }) => {
                error.with_note(&origin)
            }
            _ => error,
        }
    }
}

/// The content of the file, without the end of its line.
///
/// # Errors
///
/// Those of the system; and that the file is not regular, is empty, is not UTF-8, or is longer than
/// [`LONGEST_PASSWORD`].
fn read_password(file: &Path) -> io::Result<String> {
    let mut text = String::new();
    open_regular(file)?.take(LONGEST_PASSWORD + 1).read_to_string(&mut text)?;
    let password = text.strip_suffix('\n').unwrap_or(&text);
    let password = password.strip_suffix('\r').unwrap_or(password);
    match password.len() as u64 {
        // It is about to be written.
        0 => Err(io::Error::other("it is empty")),
        1..=LONGEST_PASSWORD => Ok(password.to_owned()),
        _ => Err(io::Error::other("it is longer than 64 KiB")),
    }
}

#[cfg(test)]
mod tests {
    use super::{CredentialCallback, Credentials, LoginSource, PasswordSource, read_password};
    use crate::cluster::ConnectError;
    use std::sync::Mutex;
    use std::time::Duration;
    use std::{env, fs, process};
    use tokio::time::Instant;

    fn end() -> Instant {
        Instant::now() + Duration::from_millis(100)
    }

    fn source(password: PasswordSource) -> LoginSource {
        LoginSource { user: Some("me".to_owned()), password }
    }

    fn callback<F>(ask: impl Fn() -> F + Send + Sync + 'static) -> LoginSource
    where
        F: Future<Output = Result<Credentials, &'static str>> + Send + 'static,
    {
        source(PasswordSource::Callback(CredentialCallback::new(ask)))
    }

    #[test]
    fn a_file_has_a_password_and_at_most_the_end_of_a_line() {
        let file = env::temp_dir().join(format!("lockword-password-{}", process::id()));
        let read = |text: &[u8]| {
            fs::write(&file, text).unwrap();
            read_password(&file).map_err(|why| why.to_string())
        };
        for (text, password) in
            [("a b", "a b"), ("a\n", "a"), ("a\r\n", "a"), ("a\n\n", "a\n"), (" a ", " a ")]
        {
            assert_eq!(read(text.as_bytes()).as_deref(), Ok(password));
        }
        for (text, why) in [(&b""[..], "empty"), (b"\n", "empty"), (b"\xff", "UTF-8")] {
            let said = read(text).unwrap_err();
            assert!(said.contains(why), "{said}");
        }
        assert!(read(&[b'a'; 64 * 1024]).is_ok());
        assert!(read(&[b'a'; 64 * 1024 + 1]).unwrap_err().contains("64 KiB"));
        fs::remove_file(&file).unwrap();
    }

    #[cfg(unix)]
    #[test]
    fn a_pipe_is_refused_at_once() {
        use crate::cluster::engines::tls::Pem;
        let pipe = env::temp_dir().join(format!("lockword-pipe-{}", process::id()));
        assert!(process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let (tell, told) = std::sync::mpsc::channel();
        let file = pipe.clone();
        // A thread that may stay behind.
        std::thread::spawn(move || {
            let password = read_password(&file).map(drop).map_err(|why| why.to_string());
            let ca = Pem::File(file).read("ca").map(drop).map_err(|why| why.to_string());
            let _ = tell.send([password, ca]);
        });
        let said = told.recv_timeout(Duration::from_secs(10));
        fs::remove_file(&pipe).unwrap();
        for said in said.expect("nobody writes to it") {
            assert!(said.as_ref().is_err_and(|why| why.contains("no regular file")), "{said:?}");
        }
    }

    #[tokio::test]
    async fn what_keeps_the_credentials_back_is_named() {
        let missing = source(PasswordSource::File("/no/such/file".into()));
        for (source, why) in [
            (missing, "password_file=/no/such/file: "),
            (callback(|| async { Err("the vault is sealed") }), "the vault is sealed"),
            (callback(|| async { panic!("hush") }), "has panicked"),
            (callback(|| -> std::future::Pending<_> { panic!("hush") }), "has panicked"),
            (callback(std::future::pending), "did not return in time"),
        ] {
            let error = source.credentials(end()).await.unwrap_err();
            assert!(matches!(error, ConnectError::Credentials { .. }), "{error}");
            let said = error.to_string();
            assert!(said.contains(why) && !said.contains("hush"), "{said}");
        }
    }

    #[tokio::test]
    async fn the_user_is_that_of_the_callback_or_else_that_of_the_address() {
        let other = callback(|| async { Ok(Credentials::new("other", "p")) });
        assert!(other.credentials(end()).await.unwrap() == Credentials::new("other", "p"));
        let same = callback(|| async { Ok(Credentials::password_only("p")) });
        assert!(same.credentials(end()).await.unwrap() == Credentials::new("me", "p"));
        let shown = format!("{:?}", Credentials::new("other", "hush"));
        assert!(!shown.contains("other") && !shown.contains("hush"), "{shown}");
    }

    /// The passwords of the attempts to log in, where only `good` is accepted.
    async fn attempts(source: LoginSource, good: &str) -> Vec<String> {
        let tried = Mutex::new(vec![]);
        let refusal = || ConnectError::Denied { server: "a".to_owned(), cause: "no".into() };
        let attempt = |credentials: Credentials| {
            let password = credentials.password.unwrap();
            let result = if password == good { Ok(()) } else { Err(refusal()) };
            tried.lock().unwrap().push(password);
            std::future::ready(result)
        };
        let is_refused = |error: &ConnectError| matches!(error, ConnectError::Denied { .. });
        let _ = source.log_in(end(), is_refused, attempt).await;
        tried.into_inner().unwrap()
    }

    #[tokio::test]
    async fn a_refusal_asks_once_more_and_tries_again_only_with_something_else() {
        let rotating = |new: &'static [&'static str]| {
            let left = Mutex::new(new.iter());
            callback(move || {
                let next = left.lock().unwrap().next().copied();
                std::future::ready(next.map(Credentials::password_only).ok_or("no more"))
            })
        };
        assert_eq!(attempts(rotating(&["new", "newer"]), "new").await, ["new"]);
        assert_eq!(attempts(rotating(&["old", "new"]), "new").await, ["old", "new"]);
        assert_eq!(attempts(rotating(&["old", "old", "new"]), "new").await, ["old"]);
        assert_eq!(attempts(rotating(&["old", "older", "new"]), "new").await, ["old", "older"]);
        assert_eq!(attempts(rotating(&["old"]), "new").await, ["old"]);
        assert_eq!(attempts(source(PasswordSource::Fixed("old".into())), "new").await, ["old"]);
    }
}
