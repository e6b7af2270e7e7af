//! HTTP requests to the hub. Redirects are followed here so that the token is only sent to the hub, and errors are
//! either retried or explained.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::thread;
use std::time::Duration;

use serde::Deserialize;
use ureq::http::{HeaderMap, HeaderValue, Response, StatusCode, Uri};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig};
use ureq::{Agent, Body};

use crate::names::{Repo, bare_etag, is_plain_component, printable};
use crate::{HubError, HubSettings};

const MAX_REDIRECTS: usize = 10;
/// Bytes of a listing; one of 100,000 files has about 10 MB.
const MAX_LISTING: u64 = 128 << 20;
const MAX_MESSAGE: usize = 300;
const MAX_CERTIFICATES: u64 = 16 << 20;
const MAX_PAUSE: Duration = Duration::from_secs(60);

/// Sends requests to one hub.
#[derive(Debug)]
pub(crate) struct Client {
    agent: Agent,
    pub(crate) endpoint: String,
    origin: Option<Origin>,
    bearer: Option<HeaderValue>,
    pub(crate) retries: u32,
    backoff: Duration,
}

/// The subject of a request, for error messages.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Subject<'a> {
    pub(crate) repo: &'a Repo<'a>,
    pub(crate) revision: &'a str,
    pub(crate) file: Option<&'a str>,
}

/// A failed request, and whether a retry may succeed.
#[derive(Debug)]
pub(crate) struct Failure {
    error: Box<HubError>,
    transient: bool,
    /// The pause that the server requested.
    pause: Option<Duration>,
}

impl Failure {
    pub(crate) fn fatal(error: HubError) -> Self {
        Failure { error: Box::new(error), transient: false, pause: None }
    }

    pub(crate) fn transient(error: HubError) -> Self {
        Failure { error: Box::new(error), transient: true, pause: None }
    }

    /// Network errors in the middle of a file count as transient, because the network worked before.
    pub(crate) fn passing_if_network(self) -> Self {
        let transient = self.transient || matches!(*self.error, HubError::Network { .. });
        Failure { transient, ..self }
    }
}

/// The listing of one revision of a repository.
#[derive(Debug, Deserialize)]
pub(crate) struct RepoInfo {
    pub(crate) sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Debug, Deserialize)]
struct Sibling {
    rfilename: String,
}

impl RepoInfo {
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.siblings.iter().map(|sibling| sibling.rfilename.as_str())
    }
}

/// Metadata of a file.
#[derive(Debug)]
pub(crate) struct FileInfo {
    pub(crate) etag: String,
    pub(crate) size: Option<u64>,
    pub(crate) commit: Option<String>,
}

/// Scheme, host and port. The token is only sent to the hub's own origin.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Origin {
    scheme: String,
    host: String,
    port: u16,
}

impl Origin {
    fn of(uri: &Uri) -> Option<Origin> {
        let scheme = uri.scheme_str()?.to_ascii_lowercase();
        let default_port = if scheme == "https" { 443 } else { 80 };
        let host = uri.host()?.to_ascii_lowercase();
        Some(Origin { scheme, host, port: uri.port_u16().unwrap_or(default_port) })
    }

    fn is_this_machine(&self) -> bool {
        let host = self.host.trim_matches(['[', ']']);
        host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verb {
    Head,
    Get,
}

impl Client {
    pub(crate) fn new(settings: &HubSettings) -> Result<Self, HubError> {
        let endpoint = crate::settings::checked_endpoint(&settings.endpoint)?;
        let origin = endpoint.parse().ok().and_then(|uri| Origin::of(&uri));
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .user_agent(concat!("fathom/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(settings.connect_timeout))
            .timeout_recv_response(Some(Duration::from_secs(60)))
            .timeout_per_read(Some(Duration::from_secs(60)));
        if origin.as_ref().is_some_and(Origin::is_this_machine) {
            config = config.proxy(None);
        }
        if let Some(path) = &settings.certificates {
            config = config.tls_config(TlsConfig::builder().root_certs(read_certificates(path)?).build());
        }
        Ok(Client {
            agent: config.build().new_agent(),
            endpoint,
            origin,
            bearer: settings.token.as_deref().map(bearer).transpose()?,
            retries: settings.retries,
            backoff: settings.backoff,
        })
    }

    /// Requests the commit and the file names of a revision.
    pub(crate) fn repo_info(&self, subject: Subject<'_>) -> Result<RepoInfo, HubError> {
        let url = subject.repo.api_url(&self.endpoint, subject.revision);
        let bytes = self.retrying(|| {
            let mut response = self.get(&url, None, subject)?;
            let mut bytes = Vec::new();
            let mut body = response.body_mut().as_reader().take(MAX_LISTING);
            body.read_to_end(&mut bytes).map_err(|e| Failure::transient(network(&url, &e)))?;
            Ok(bytes)
        })?;
        let bad = |reason| HubError::BadAnswer { url: shown(&url), reason };
        if bytes.len() as u64 == MAX_LISTING {
            return Err(bad(format!("the listing is longer than {} MiB", MAX_LISTING >> 20)));
        }
        let info: RepoInfo = serde_json::from_slice(&bytes)
            .map_err(|e| bad(format!("it is not the listing of a repository ({e})")))?;
        if !is_plain_component(&info.sha) {
            return Err(bad(format!("`{}` is not a commit", printable(&info.sha))));
        }
        Ok(info)
    }

    /// Requests the entity tag and the size of a file.
    pub(crate) fn file_info(&self, url: &str, subject: Subject<'_>) -> Result<FileInfo, HubError> {
        let headers = self.retrying(|| {
            let (response, at) = self.follow(Verb::Head, url, None)?;
            let linked = response.headers().contains_key("x-linked-etag");
            if response.status().is_success() || (response.status().is_redirection() && linked) {
                return Ok((response.headers().clone(), response.status().is_success()));
            }
            Err(self.explain(&response, &at, subject, String::new()))
        })?;
        let (headers, is_file) = headers;
        let bad = |reason: &str| HubError::BadAnswer { url: shown(url), reason: reason.to_owned() };
        let etag = text(&headers, "x-linked-etag").or_else(|| text(&headers, "etag")).map(bare_etag);
        let etag =
            etag.filter(|etag| !etag.is_empty()).ok_or_else(|| bad("it has no entity tag for a file"))?;
        // The length of a redirect's body is not that of the file.
        let length = if is_file { text(&headers, "content-length") } else { None };
        let size = text(&headers, "x-linked-size").or(length).and_then(|size| size.parse().ok());
        let commit =
            text(&headers, "x-repo-commit").filter(|commit| is_plain_component(commit)).map(str::to_owned);
        Ok(FileInfo { etag: etag.to_owned(), size, commit })
    }

    /// Fetches a file, optionally from byte `from` on. The status is 200, 206 or 416.
    pub(crate) fn get(
        &self,
        url: &str,
        from: Option<u64>,
        subject: Subject<'_>,
    ) -> Result<Response<Body>, Failure> {
        let (mut response, at) = self.follow(Verb::Get, url, from)?;
        match response.status() {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT => Ok(response),
            StatusCode::RANGE_NOT_SATISFIABLE if from.is_some() => Ok(response),
            _ => {
                let message = error_message(&mut response);
                Err(self.explain(&response, &at, subject, message))
            }
        }
    }

    /// Runs `attempt` until it succeeds, fails permanently, or has failed too often.
    fn retrying<T>(&self, mut attempt: impl FnMut() -> Result<T, Failure>) -> Result<T, HubError> {
        let mut failures = 0;
        loop {
            match attempt() {
                Ok(value) => return Ok(value),
                Err(failure) => self.pause_or_give_up(failure, &mut failures)?,
            }
        }
    }

    /// Waits before a retry; returns the error if there should be none.
    pub(crate) fn pause_or_give_up(&self, failure: Failure, failures: &mut u32) -> Result<(), HubError> {
        if !failure.transient || *failures >= self.retries {
            return Err(*failure.error);
        }
        let pause = failure.pause.unwrap_or(self.backoff.saturating_mul(1 << (*failures).min(5)));
        *failures += 1;
        thread::sleep(pause.min(MAX_PAUSE));
        Ok(())
    }

    /// Sends a request and follows redirects. A HEAD request stops at a redirect with the entity tag of the file. Returns
    /// the last response and its address.
    fn follow(&self, verb: Verb, url: &str, from: Option<u64>) -> Result<(Response<Body>, Uri), Failure> {
        let mut at: Uri = url.parse().map_err(|_| Failure::fatal(bad_redirect(url, url)))?;
        for _ in 0..=MAX_REDIRECTS {
            let response = self.send(verb, &at, from)?;
            let location = text(response.headers(), "location");
            let is_known = verb == Verb::Head && response.headers().contains_key("x-linked-etag");
            let (true, false, Some(location)) = (response.status().is_redirection(), is_known, location)
            else {
                return Ok((response, at));
            };
            at = resolve(&at, location).ok_or_else(|| Failure::fatal(bad_redirect(url, location)))?;
        }
        Err(Failure::fatal(HubError::BadAnswer {
            url: shown(url),
            reason: "it redirects endlessly".to_owned(),
        }))
    }

    fn send(&self, verb: Verb, uri: &Uri, from: Option<u64>) -> Result<Response<Body>, Failure> {
        let mut request = match verb {
            Verb::Head => self.agent.head(uri.clone()),
            Verb::Get => self.agent.get(uri.clone()),
        };
        // Sizes and ranges refer to the uncompressed file.
        request = request.header("accept-encoding", "identity");
        if let Some(bearer) = &self.bearer
            && Origin::of(uri) == self.origin
        {
            request = request.header("authorization", bearer.clone());
        }
        if let Some(from) = from {
            request = request.header("range", format!("bytes={from}-"));
        }
        request.call().map_err(|e| {
            let error = network(&uri.to_string(), &e);
            if is_transient(&e) { Failure::transient(error) } else { Failure::fatal(error) }
        })
    }

    /// Turns a status into an error with a way out.
    fn explain(&self, response: &Response<Body>, at: &Uri, subject: Subject<'_>, message: String) -> Failure {
        let headers = response.headers();
        let status = response.status().as_u16();
        let message = text(headers, "x-error-message").map_or(message, printable);
        let pause = text(headers, "retry-after").and_then(|s| s.parse().ok()).map(Duration::from_secs);
        if matches!(status, 408 | 429 | 500 | 502 | 503 | 504) {
            let error = HubError::Status { url: shown(&at.to_string()), status, message };
            return Failure { pause, ..Failure::transient(error) };
        }
        let id = subject.repo.id.to_owned();
        let endpoint = self.endpoint.clone();
        let token_sent = self.bearer.is_some();
        let is_hub = Origin::of(at) == self.origin;
        let code = text(headers, "x-error-code").unwrap_or_default();
        Failure::fatal(match (status, code, subject.file) {
            (404, "RevisionNotFound", _) => {
                HubError::RevisionNotFound { id, revision: subject.revision.to_owned(), endpoint }
            }
            (404, "EntryNotFound", Some(file)) => file_not_found(id, subject, file),
            (404 | 401, "RepoNotFound", _) => HubError::RepoNotFound { id, endpoint, token_sent },
            // Without a token, private repositories look like missing ones.
            (401, "", _) if !token_sent => HubError::RepoNotFound { id, endpoint, token_sent },
            (404, _, Some(file)) => file_not_found(id, subject, file),
            (404, _, None) => HubError::RepoNotFound { id, endpoint, token_sent },
            (401 | 403, ..) if is_hub => {
                let page = subject.repo.page(&endpoint);
                HubError::AccessDenied { id, page, status, message, token_sent }
            }
            _ => HubError::Status { url: shown(&at.to_string()), status, message },
        })
    }
}

fn file_not_found(id: String, subject: Subject<'_>, file: &str) -> HubError {
    HubError::FileNotFound { id, revision: subject.revision.to_owned(), file: printable(file) }
}

fn bad_redirect(url: &str, to: &str) -> HubError {
    HubError::BadAnswer { url: shown(url), reason: format!("it redirects to `{}`", shown(&printable(to))) }
}

/// The header with the token, marked as sensitive so that it is never logged.
fn bearer(token: &str) -> Result<HeaderValue, HubError> {
    let mut value =
        HeaderValue::from_str(&format!("Bearer {}", token.trim())).map_err(|_| HubError::Setting {
            name: "HF_TOKEN",
            reason: "it has characters that no access token has; copy it again from the hub's settings page"
                .to_owned(),
        })?;
    value.set_sensitive(true);
    Ok(value)
}

fn read_certificates(path: &Path) -> Result<RootCerts, HubError> {
    let file = File::open(path).map_err(HubError::io("read the certificates", path))?;
    let mut pem = Vec::new();
    file.take(MAX_CERTIFICATES).read_to_end(&mut pem).map_err(HubError::io("read the certificates", path))?;
    let items = ureq::tls::parse_pem(&pem).flatten();
    let certificates: Vec<Certificate<'static>> = items
        .filter_map(|item| match item {
            PemItem::Certificate(certificate) => Some(certificate),
            _ => None,
        })
        .collect();
    if certificates.is_empty() {
        let reason = format!("{} holds no certificate; unset it or name a PEM file", path.display());
        return Err(HubError::Setting { name: "SSL_CERT_FILE", reason });
    }
    Ok(RootCerts::new_with_certs(&certificates))
}

/// Resolves a `Location` header against `base`. A downgrade to http, or another scheme, is refused.
fn resolve(base: &Uri, location: &str) -> Option<Uri> {
    let scheme = base.scheme_str()?;
    let authority = base.authority()?.as_str();
    let absolute = if location.starts_with("http://") || location.starts_with("https://") {
        location.to_owned()
    } else if location.starts_with("//") {
        format!("{scheme}:{location}")
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}")
    } else if location.split(['/', '?']).next().is_some_and(|first| first.contains(':')) {
        return None;
    } else {
        let folder = base.path().rsplit_once('/').map_or("", |(folder, _)| folder);
        format!("{scheme}://{authority}{folder}/{location}")
    };
    // Fragments are not part of a request.
    let absolute = absolute.split('#').next().unwrap_or_default();
    let next: Uri = absolute.parse().ok()?;
    let downgrade = scheme == "https" && next.scheme_str() != Some("https");
    (!downgrade && next.host().is_some()).then_some(next)
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// The `error` field of the hub's JSON, or an empty string.
fn error_message(response: &mut Response<Body>) -> String {
    #[derive(Deserialize)]
    struct Answer {
        error: String,
    }
    let mut bytes = Vec::new();
    let read = response.body_mut().as_reader().take(64 * 1024).read_to_end(&mut bytes);
    let answer = read.ok().and_then(|_| serde_json::from_slice::<Answer>(&bytes).ok());
    printable(
        &answer.map(|answer| answer.error).unwrap_or_default().chars().take(MAX_MESSAGE).collect::<String>(),
    )
}

/// Whether a retry may help. Refused connections, unknown hosts and bad certificates are usually permanent, so the user
/// should not have to wait.
fn is_transient(error: &ureq::Error) -> bool {
    use std::io::ErrorKind;
    match error {
        ureq::Error::Io(e) => matches!(
            e.kind(),
            ErrorKind::ConnectionReset
                | ErrorKind::ConnectionAborted
                | ErrorKind::BrokenPipe
                | ErrorKind::UnexpectedEof
                | ErrorKind::TimedOut
                | ErrorKind::Interrupted
                | ErrorKind::WouldBlock
        ),
        ureq::Error::Timeout(_) => true,
        _ => false,
    }
}

/// The error of a failed connection, with the reason of the system or the TLS library.
pub(crate) fn network(url: &str, reason: &dyn std::fmt::Display) -> HubError {
    let mut reason = printable(&reason.to_string());
    if reason.contains("certificate") {
        // The usual cause is a proxy that replaces certificates.
        reason.push_str(" (set SSL_CERT_FILE to a PEM file with the certificate of your proxy)");
    }
    HubError::Network { url: shown(url), reason }
}

/// An address for messages: without query, which may hold a signature, and without password.
pub(crate) fn shown(url: &str) -> String {
    let url = url.split(['?', '#']).next().unwrap_or_default();
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = authority.rsplit('@').next().unwrap_or_default();
    format!("{scheme}://{host}{path}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_resolve(location: &str, expected: Option<&str>) {
        let base: Uri = "https://hub.example:8443/a/b/c?x=1".parse().unwrap();
        assert_eq!(resolve(&base, location).map(|uri| uri.to_string()).as_deref(), expected);
    }

    #[test]
    fn locations_are_resolved() {
        check_resolve("https://cdn.example/x?sig=1", Some("https://cdn.example/x?sig=1"));
        check_resolve("/api/x#frag", Some("https://hub.example:8443/api/x"));
        check_resolve("//cdn.example/x", Some("https://cdn.example/x"));
        check_resolve("d?y=2", Some("https://hub.example:8443/a/b/d?y=2"));
        check_resolve("http://hub.example:8443/x", None);
        check_resolve("file:///etc/passwd", None);
        check_resolve("javascript:x", None);
    }

    #[test]
    fn origins_differ_by_scheme_host_and_port() {
        let origin = |url: &str| Origin::of(&url.parse().unwrap()).unwrap();
        assert_eq!(origin("https://Hub.example/x"), origin("https://hub.example:443/y"));
        assert_ne!(origin("https://hub.example"), origin("http://hub.example"));
        assert_ne!(origin("https://hub.example"), origin("https://hub.example:444"));
        // The part before `@` is a user name, and must not pass for the host.
        assert_ne!(origin("https://hub.example"), origin("https://hub.example@evil.example"));
    }

    #[test]
    fn shown_addresses_hide_signatures_and_passwords() {
        assert_eq!(shown("https://a.example/x?X-Signature=s"), "https://a.example/x");
        assert_eq!(shown("https://me:pw@a.example/x"), "https://a.example/x");
        assert_eq!(shown("https://a.example/x@y"), "https://a.example/x@y");
    }

    #[test]
    fn only_transient_errors_are_retried() {
        use std::io::ErrorKind;
        let transient = |kind: ErrorKind| is_transient(&ureq::Error::Io(kind.into()));
        assert!(transient(ErrorKind::ConnectionReset) && transient(ErrorKind::TimedOut));
        assert!(!transient(ErrorKind::ConnectionRefused) && !transient(ErrorKind::InvalidData));
        assert!(!is_transient(&ureq::Error::HostNotFound));
    }

    #[test]
    fn odd_tokens_are_refused_without_being_shown() {
        let message = bearer("hf_a\nb").expect_err("a line break must be refused").to_string();
        assert!(message.contains("HF_TOKEN") && !message.contains("hf_a"), "{message}");
    }
}
