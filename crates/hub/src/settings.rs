//! The cache folder, the endpoint and the token: explicit, or from the environment.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::HubError;

/// The settings of a [`Hub`](crate::Hub).
#[derive(Clone)]
#[non_exhaustive]
pub struct HubSettings {
    /// The folder that holds `models--org--name` and its siblings.
    pub cache: PathBuf,
    /// The hub, `http://` or `https://`, without a trailing slash.
    pub endpoint: String,
    /// Sent as a bearer token, to the endpoint's own origin only.
    pub token: Option<String>,
    /// Never touch the network.
    pub offline: bool,
    /// Whether snapshots use symbolic links; otherwise they use hard links or copies.
    pub symlinks: bool,
    /// A PEM file of certificates to trust instead of the built-in ones.
    pub certificates: Option<PathBuf>,
    /// Maximum number of retries after consecutive transient failures without new bytes.
    pub retries: u32,
    /// The pause before the first retry; each further one is twice as long.
    pub backoff: Duration,
    /// How long to wait for a connection.
    pub connect_timeout: Duration,
}

/// Looks up an environment variable.
type Lookup<'a> = &'a dyn Fn(&str) -> Option<OsString>;

const PUBLIC_HUB: &str = "https://huggingface.co";
const LONGEST_TOKEN: u64 = 16 * 1024;

impl HubSettings {
    /// The public hub without a token, with this cache folder.
    pub fn new(cache: impl Into<PathBuf>) -> Self {
        HubSettings {
            cache: cache.into(),
            endpoint: PUBLIC_HUB.to_owned(),
            token: None,
            offline: false,
            symlinks: true,
            certificates: None,
            retries: 4,
            backoff: Duration::from_secs(1),
            connect_timeout: Duration::from_secs(20),
        }
    }

    /// Reads the environment of this process; see [`from_lookup`](HubSettings::from_lookup).
    ///
    /// # Errors
    /// As [`from_lookup`](HubSettings::from_lookup).
    pub fn from_env() -> Result<Self, HubError> {
        HubSettings::from_lookup(&|name| std::env::var_os(name), std::env::home_dir().as_deref())
    }

    /// The settings that huggingface_hub would read from these variables.
    ///
    /// Honoured, each ignored when empty: `HF_HUB_CACHE`, `HUGGINGFACE_HUB_CACHE`, `HF_HOME`, `XDG_CACHE_HOME`,
    /// `HF_ENDPOINT`, `HF_TOKEN`, `HUGGING_FACE_HUB_TOKEN`, `HF_TOKEN_PATH`, `HF_HUB_DISABLE_IMPLICIT_TOKEN`,
    /// `HF_HUB_OFFLINE`, `TRANSFORMERS_OFFLINE`, `HF_HUB_DISABLE_SYMLINKS`; and for certificates `SSL_CERT_FILE`,
    /// `REQUESTS_CA_BUNDLE`, `CURL_CA_BUNDLE`. Folders may begin with `~` and contain `$NAME` or `${NAME}`.
    ///
    /// # Errors
    /// [`HubError::NoHome`] when no variable names the cache, [`HubError::Setting`] for an unusable value and
    /// [`HubError::Io`] for a token file that exists but cannot be read.
    pub fn from_lookup(lookup: Lookup<'_>, home: Option<&Path>) -> Result<Self, HubError> {
        let env = Env { lookup, home };
        let mut settings = HubSettings::new(env.cache()?);
        if let Some(endpoint) = env.text("HF_ENDPOINT") {
            settings.endpoint = endpoint;
        }
        settings.endpoint = checked_endpoint(&settings.endpoint)?;
        settings.token = env.token()?;
        let offline = env.text("HF_HUB_OFFLINE").or_else(|| env.text("TRANSFORMERS_OFFLINE"));
        settings.offline = offline.is_some_and(|value| is_true(&value));
        settings.symlinks = !env.flag("HF_HUB_DISABLE_SYMLINKS");
        settings.certificates =
            ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"].iter().find_map(|name| env.path(name));
        Ok(settings)
    }
}

/// Keeps the token out of logs.
impl fmt::Debug for HubSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HubSettings")
            .field("cache", &self.cache)
            .field("endpoint", &self.endpoint)
            .field("token", &self.token.as_ref().map(|_| "(hidden)"))
            .field("offline", &self.offline)
            .field("symlinks", &self.symlinks)
            .field("certificates", &self.certificates)
            .field("retries", &self.retries)
            .field("backoff", &self.backoff)
            .field("connect_timeout", &self.connect_timeout)
            .finish()
    }
}

/// Fathom's own cache folder: `FATHOM_CACHE`, else `XDG_CACHE_HOME/fathom`, else `fathom` in the system's cache folder
/// (`~/.cache`, `~/Library/Caches`, `%LOCALAPPDATA%`).
///
/// # Errors
/// [`HubError::NoHome`] when no variable names it.
pub fn default_folder() -> Result<PathBuf, HubError> {
    folder_from(&|name| std::env::var_os(name), std::env::home_dir().as_deref())
}

/// [`default_folder`] with an explicit environment.
fn folder_from(lookup: Lookup<'_>, home: Option<&Path>) -> Result<PathBuf, HubError> {
    let env = Env { lookup, home };
    if let Some(folder) = env.path("FATHOM_CACHE") {
        return Ok(folder);
    }
    let system = if cfg!(windows) {
        env.path("LOCALAPPDATA")
    } else if cfg!(target_os = "macos") {
        home.map(|home| home.join("Library").join("Caches"))
    } else {
        home.map(|home| home.join(".cache"))
    };
    let caches = env.path("XDG_CACHE_HOME").or(system);
    caches.map(|caches| caches.join("fathom")).ok_or(HubError::NoHome { variable: "FATHOM_CACHE" })
}

/// The environment as huggingface_hub sees it.
struct Env<'a> {
    lookup: Lookup<'a>,
    home: Option<&'a Path>,
}

impl Env<'_> {
    fn raw(&self, name: &str) -> Option<OsString> {
        (self.lookup)(name).filter(|value| !value.is_empty())
    }

    fn text(&self, name: &str) -> Option<String> {
        let text = self.raw(name)?.to_string_lossy().trim().to_owned();
        (!text.is_empty()).then_some(text)
    }

    fn flag(&self, name: &str) -> bool {
        self.text(name).is_some_and(|value| is_true(&value))
    }

    fn path(&self, name: &str) -> Option<PathBuf> {
        self.raw(name).map(|value| self.expand(&value))
    }

    /// `HF_HOME`, by default `huggingface` in the cache folder.
    fn hf_home(&self) -> Result<PathBuf, HubError> {
        if let Some(folder) = self.path("HF_HOME") {
            return Ok(folder);
        }
        let caches = self.path("XDG_CACHE_HOME").or_else(|| self.home.map(|home| home.join(".cache")));
        caches.map(|caches| caches.join("huggingface")).ok_or(HubError::NoHome { variable: "HF_HOME" })
    }

    fn cache(&self) -> Result<PathBuf, HubError> {
        match self.path("HF_HUB_CACHE").or_else(|| self.path("HUGGINGFACE_HUB_CACHE")) {
            Some(folder) => Ok(folder),
            None => Ok(self.hf_home()?.join("hub")),
        }
    }

    fn token(&self) -> Result<Option<String>, HubError> {
        if self.flag("HF_HUB_DISABLE_IMPLICIT_TOKEN") {
            return Ok(None);
        }
        if let Some(token) = self.text("HF_TOKEN").or_else(|| self.text("HUGGING_FACE_HUB_TOKEN")) {
            return Ok(Some(token));
        }
        let path = match self.path("HF_TOKEN_PATH") {
            Some(path) => path,
            // With an explicit cache the home folder may be missing, and then there is no token file.
            None => match self.hf_home() {
                Ok(folder) => folder.join("token"),
                Err(_) => return Ok(None),
            },
        };
        read_token(&path)
    }

    /// Replaces a leading `~` and every `$NAME` or `${NAME}` that is set; a path that is not Unicode stays as it is.
    fn expand(&self, value: &OsStr) -> PathBuf {
        let Some(text) = value.to_str() else { return PathBuf::from(value) };
        let text = self.expand_variables(text);
        let after_tilde =
            text.strip_prefix('~').filter(|rest| rest.is_empty() || rest.starts_with(['/', '\\']));
        match (after_tilde, self.home) {
            (Some(rest), Some(home)) => home.join(rest.trim_start_matches(['/', '\\'])),
            _ => PathBuf::from(text),
        }
    }

    fn expand_variables(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find('$') {
            out.push_str(&rest[..at]);
            rest = &rest[at..];
            let (name, used) = variable_name(rest);
            match name.and_then(|name| self.raw(name)) {
                Some(value) => out.push_str(&value.to_string_lossy()),
                None => out.push_str(&rest[..used]),
            }
            rest = &rest[used..];
        }
        out.push_str(rest);
        out
    }
}

/// The variable that `text`, which begins with `$`, refers to, and the bytes of the reference.
fn variable_name(text: &str) -> (Option<&str>, usize) {
    let body = &text[1..];
    if let Some(braced) = body.strip_prefix('{') {
        return match braced.find('}') {
            Some(end) => (Some(&braced[..end]), end + 3),
            None => (None, 1),
        };
    }
    let end = body.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(body.len());
    ((end > 0).then(|| &body[..end]), end + 1)
}

/// Whether huggingface_hub reads the value as true.
fn is_true(value: &str) -> bool {
    ["1", "on", "yes", "true"].iter().any(|word| value.eq_ignore_ascii_case(word))
}

/// Checks an endpoint and removes trailing slashes.
pub(crate) fn checked_endpoint(endpoint: &str) -> Result<String, HubError> {
    let endpoint = endpoint.trim_end_matches('/');
    let parsed = endpoint.parse::<ureq::http::Uri>().ok();
    let usable = parsed.is_some_and(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some() && uri.query().is_none()
    });
    if usable {
        return Ok(endpoint.to_owned());
    }
    Err(HubError::Setting {
        name: "HF_ENDPOINT",
        reason: format!(
            "`{}` is not the address of a hub; write it as `https://host`, or unset it",
            crate::names::printable(endpoint)
        ),
    })
}

/// The token in this file, or `None` when the file is missing or empty.
fn read_token(path: &Path) -> Result<Option<String>, HubError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(e) => return Err(HubError::io("read the token file", path)(e)),
    };
    let mut text = String::new();
    file.take(LONGEST_TOKEN).read_to_string(&mut text).map_err(HubError::io("read the token file", path))?;
    let token = text.trim();
    Ok((!token.is_empty()).then(|| token.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(variables: &[(&str, &str)]) -> HubSettings {
        let lookup =
            |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| OsString::from(value));
        HubSettings::from_lookup(&lookup, Some(Path::new("/home/me"))).unwrap_or_else(|e| panic!("{e}"))
    }

    #[track_caller]
    fn cache_is(variables: &[(&str, &str)], expected: &str) {
        assert_eq!(settings(variables).cache, Path::new(expected));
    }

    #[test]
    fn cache_folder_follows_huggingface_hub() {
        cache_is(&[], "/home/me/.cache/huggingface/hub");
        cache_is(&[("XDG_CACHE_HOME", "/xdg")], "/xdg/huggingface/hub");
        cache_is(&[("XDG_CACHE_HOME", "/xdg"), ("HF_HOME", "/hf")], "/hf/hub");
        cache_is(&[("HF_HOME", "/hf"), ("HUGGINGFACE_HUB_CACHE", "/old")], "/old");
        cache_is(&[("HUGGINGFACE_HUB_CACHE", "/old"), ("HF_HUB_CACHE", "/new")], "/new");
        cache_is(&[("HF_HOME", "~/models")], "/home/me/models/hub");
        cache_is(&[("HF_HOME", "")], "/home/me/.cache/huggingface/hub");
        cache_is(
            &[("HF_HOME", "$SCRATCH/${WHO}/$NOT_SET"), ("SCRATCH", "/s"), ("WHO", "me")],
            "/s/me/$NOT_SET/hub",
        );
    }

    #[test]
    fn offline_takes_the_words_of_huggingface_hub() {
        for word in ["1", "true", "YES", "On"] {
            assert!(settings(&[("HF_HUB_OFFLINE", word)]).offline, "{word}");
        }
        for word in ["0", "false", "", "2"] {
            assert!(!settings(&[("HF_HUB_OFFLINE", word)]).offline, "{word}");
        }
        assert!(settings(&[("TRANSFORMERS_OFFLINE", "1")]).offline);
        assert!(!settings(&[("HF_HUB_OFFLINE", "0"), ("TRANSFORMERS_OFFLINE", "1")]).offline);
    }

    #[test]
    fn token_comes_from_variables_then_from_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().to_str().unwrap();
        std::fs::write(folder.path().join("token"), "hf_file\n").unwrap();
        std::fs::write(folder.path().join("other"), "hf_other").unwrap();
        let other = folder.path().join("other");
        let token = |variables: &[(&str, &str)]| settings(variables).token;
        assert_eq!(token(&[("HF_HOME", home)]).as_deref(), Some("hf_file"));
        assert_eq!(token(&[("HF_HOME", home), ("HF_TOKEN", " hf_env\n")]).as_deref(), Some("hf_env"));
        assert_eq!(
            token(&[("HF_HOME", home), ("HUGGING_FACE_HUB_TOKEN", "hf_old")]).as_deref(),
            Some("hf_old")
        );
        assert_eq!(token(&[("HF_TOKEN_PATH", other.to_str().unwrap())]).as_deref(), Some("hf_other"));
        assert_eq!(token(&[("HF_HOME", home), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")]), None);
        assert_eq!(token(&[("HF_HOME", "/nowhere")]), None);
    }

    #[test]
    fn endpoint_is_checked_and_trimmed() {
        assert_eq!(
            settings(&[("HF_ENDPOINT", "https://mirror.example/")]).endpoint,
            "https://mirror.example"
        );
        for bad in ["mirror.example", "ftp://mirror", "https://", "https://a/?b"] {
            let message = checked_endpoint(bad).expect_err(bad).to_string();
            assert!(message.contains("HF_ENDPOINT"), "{message}");
        }
    }

    #[test]
    fn tokens_stay_out_of_debug_output() {
        let shown = format!("{:?}", settings(&[("HF_TOKEN", "hf_secret")]));
        assert!(!shown.contains("hf_secret"), "{shown}");
    }

    #[test]
    fn own_folder_prefers_its_variable() {
        let with = |variables: &[(&str, &str)], home: Option<&str>| {
            let lookup =
                |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, v)| OsString::from(v));
            folder_from(&lookup, home.map(Path::new))
        };
        let both = [("FATHOM_CACHE", "/f"), ("XDG_CACHE_HOME", "/x")];
        assert_eq!(with(&both, Some("/home/me")).unwrap(), Path::new("/f"));
        assert_eq!(with(&both[1..], Some("/home/me")).unwrap(), Path::new("/x/fathom"));
        if cfg!(target_os = "linux") {
            assert_eq!(with(&[], Some("/home/me")).unwrap(), Path::new("/home/me/.cache/fathom"));
        }
        assert!(matches!(with(&[], None), Err(HubError::NoHome { .. })));
    }
}
