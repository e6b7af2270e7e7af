//! A small hub on 127.0.0.1 that records what it is asked.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use fathom_hub::{Hub, HubSettings, Progress};
use sha2::{Digest, Sha256};

/// A request as it came in; header names are in lower case.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: HashMap<String, String>,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

/// An answer; `cut` closes the connection after that many bytes of the body.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) cut: Option<usize>,
}

impl Reply {
    pub(crate) fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Reply { status, body: body.into(), ..Reply::default() }
    }

    pub(crate) fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }
}

type Handler = dyn Fn(&Request) -> Reply + Send + Sync;

/// A server that lives as long as the test process.
pub(crate) struct Server {
    pub(crate) port: u16,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    pub(crate) fn start(handler: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let record = Arc::clone(&requests);
        let handler: Arc<Handler> = Arc::new(handler);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (record, handler) = (Arc::clone(&record), Arc::clone(&handler));
                // A client that hangs up early is part of some tests.
                thread::spawn(move || serve(stream, &record, &*handler).ok());
            }
        });
        Server { port, requests }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    /// The requests with this method whose path ends so.
    pub(crate) fn asked(&self, method: &str, end: &str) -> Vec<Request> {
        self.requests().into_iter().filter(|r| r.method == method && r.path.ends_with(end)).collect()
    }
}

fn serve(mut stream: TcpStream, record: &Mutex<Vec<Request>>, handler: &Handler) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split_whitespace();
    let (Some(method), Some(path)) = (words.next(), words.next()) else { return Ok(()) };
    let mut request = Request { method: method.to_owned(), path: path.to_owned(), headers: HashMap::new() };
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        request.headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    record.lock().unwrap().push(request.clone());
    let reply = handler(&request);
    let mut head = format!("HTTP/1.1 {} x\r\nConnection: close\r\n", reply.status);
    if !reply.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-length")) {
        head.push_str(&format!("Content-Length: {}\r\n", reply.body.len()));
    }
    for (name, value) in &reply.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    stream.write_all(format!("{head}\r\n").as_bytes())?;
    if request.method != "HEAD" {
        stream.write_all(&reply.body[..reply.cut.unwrap_or(reply.body.len())])?;
    }
    stream.flush()?;
    stream.shutdown(Shutdown::Write)?;
    let _ = reader.read(&mut [0; 64]);
    Ok(())
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// A file of a repository; large ones are served by another host, as the hub does.
#[derive(Debug, Clone)]
pub(crate) struct RepoFile {
    pub(crate) name: String,
    pub(crate) bytes: Vec<u8>,
    pub(crate) large: bool,
}

impl RepoFile {
    /// The tag that names the blob: 40 digits for small files, the SHA-256 for large ones.
    pub(crate) fn etag(&self) -> String {
        let digest = sha256(&self.bytes);
        if self.large { digest } else { digest[..40].to_owned() }
    }
}

pub(crate) fn small(name: &str, text: &str) -> RepoFile {
    RepoFile { name: name.to_owned(), bytes: text.as_bytes().to_vec(), large: false }
}

/// A file of `len` bytes that differ from place to place and from name to name.
pub(crate) fn large(name: &str, len: usize) -> RepoFile {
    let seed = name.bytes().fold(0, |seed, b| seed * 31 + usize::from(b)) % 1009;
    let bytes = (0..len).map(|i| (i * i / 7 + i * seed + seed) as u8).collect();
    RepoFile { name: name.to_owned(), bytes, large: true }
}

/// A repository with one commit.
#[derive(Debug, Clone)]
pub(crate) struct Repo {
    pub(crate) prefix: &'static str,
    pub(crate) id: String,
    pub(crate) commit: String,
    pub(crate) files: Vec<RepoFile>,
}

pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

impl Repo {
    pub(crate) fn model(id: &str, files: Vec<RepoFile>) -> Repo {
        Repo { prefix: "", id: id.to_owned(), commit: COMMIT.to_owned(), files }
    }

    pub(crate) fn dataset(id: &str, files: Vec<RepoFile>) -> Repo {
        Repo { prefix: "datasets/", ..Repo::model(id, files) }
    }

    pub(crate) fn file(&self, name: &str) -> &RepoFile {
        self.files.iter().find(|file| file.name == name).unwrap()
    }

    /// What the hub answers; large files are at `cdn`.
    pub(crate) fn answer(&self, request: &Request, cdn: &str) -> Reply {
        let kind = if self.prefix.is_empty() { "models" } else { "datasets" };
        if let Some(revision) = request.path.strip_prefix(&format!("/api/{kind}/{}/revision/", self.id)) {
            return self.listing(revision);
        }
        // The hub resolves branches too, which only Python asks it to do.
        let resolve = |revision: &str| format!("/{}{}/resolve/{revision}/", self.prefix, self.id);
        let below = |revision: &str| request.path.strip_prefix(&resolve(revision));
        let Some(file) = below(&self.commit).or_else(|| below("main")) else {
            return Reply::new(404, r#"{"error":"Repository not found"}"#)
                .with("X-Error-Code", "RepoNotFound");
        };
        let Some(file) = self.files.iter().find(|f| f.name == file) else {
            return Reply::new(404, "Entry not found").with("X-Error-Code", "EntryNotFound");
        };
        let etag = format!("\"{}\"", file.etag());
        if file.large {
            Reply::new(302, "Found")
                .with("X-Repo-Commit", &self.commit)
                .with("X-Linked-Etag", etag)
                .with("X-Linked-Size", file.bytes.len().to_string())
                .with("Location", format!("{cdn}/blobs/{}?X-Signature=s", file.name))
        } else {
            ranged(request, &file.bytes).with("X-Repo-Commit", &self.commit).with("ETag", etag)
        }
    }

    fn listing(&self, revision: &str) -> Reply {
        if revision != "main" && revision != self.commit {
            return Reply::new(404, r#"{"error":"Invalid rev id"}"#).with("X-Error-Code", "RevisionNotFound");
        }
        let siblings: Vec<_> =
            self.files.iter().map(|f| serde_json::json!({ "rfilename": f.name })).collect();
        let listing =
            serde_json::json!({ "id": self.id, "sha": self.commit, "siblings": siblings, "tags": [] });
        Reply::new(200, listing.to_string())
    }

    /// What the other host answers.
    pub(crate) fn answer_blob(&self, request: &Request) -> Reply {
        let name = request.path.strip_prefix("/blobs/").and_then(|path| path.split('?').next());
        match self.files.iter().find(|file| Some(file.name.as_str()) == name) {
            Some(file) => ranged(request, &file.bytes),
            None => Reply::new(404, ""),
        }
    }
}

/// The whole of `bytes`, or from where the Range header says.
pub(crate) fn ranged(request: &Request, bytes: &[u8]) -> Reply {
    let range =
        request.header("range").and_then(|r| r.strip_prefix("bytes=")).and_then(|r| r.strip_suffix('-'));
    let Some(from) = range.and_then(|from| from.parse::<usize>().ok()) else { return Reply::new(200, bytes) };
    if from >= bytes.len() {
        return Reply::new(416, "");
    }
    let last = bytes.len() - 1;
    Reply::new(206, &bytes[from..]).with("Content-Range", format!("bytes {from}-{last}/{}", bytes.len()))
}

/// A hub, the host of its large files, and an empty cache.
pub(crate) struct World {
    pub(crate) repo: Repo,
    pub(crate) hub: Server,
    pub(crate) cdn: Server,
    pub(crate) cache: tempfile::TempDir,
}

impl World {
    pub(crate) fn new(repo: Repo) -> World {
        World::with_cdn(repo, |repo, request| repo.answer_blob(request))
    }

    pub(crate) fn with_cdn(
        repo: Repo,
        cdn: impl Fn(&Repo, &Request) -> Reply + Send + Sync + 'static,
    ) -> World {
        World::with(repo, |repo, request, cdn| repo.answer(request, cdn), cdn)
    }

    pub(crate) fn with_hub(
        repo: Repo,
        hub: impl Fn(&Repo, &Request, &str) -> Reply + Send + Sync + 'static,
    ) -> World {
        World::with(repo, hub, |repo, request| repo.answer_blob(request))
    }

    pub(crate) fn with(
        repo: Repo,
        hub: impl Fn(&Repo, &Request, &str) -> Reply + Send + Sync + 'static,
        cdn: impl Fn(&Repo, &Request) -> Reply + Send + Sync + 'static,
    ) -> World {
        let (for_hub, for_cdn) = (repo.clone(), repo.clone());
        let cdn = Server::start(move |request| cdn(&for_cdn, request));
        let cdn_url = format!("http://localhost:{}", cdn.port);
        let hub = Server::start(move |request| hub(&for_hub, request, &cdn_url));
        World { repo, hub, cdn, cache: tempfile::tempdir().unwrap() }
    }

    /// HubSettings for this hub, without pauses between tries.
    pub(crate) fn settings(&self) -> HubSettings {
        let mut settings = HubSettings::new(self.cache.path());
        settings.endpoint = self.hub.url();
        settings.retries = 2;
        settings.backoff = Duration::ZERO;
        settings
    }

    pub(crate) fn client(&self) -> Hub {
        Hub::new(self.settings()).unwrap()
    }

    pub(crate) fn offline(&self) -> Hub {
        let mut settings = self.settings();
        settings.offline = true;
        Hub::new(settings).unwrap()
    }

    /// Whether any request was about a file.
    pub(crate) fn requested(&self, file: &str) -> bool {
        self.hub.requests().iter().chain(&self.cdn.requests()).any(|request| request.path.contains(file))
    }

    pub(crate) fn request_count(&self) -> usize {
        self.hub.requests().len() + self.cdn.requests().len()
    }
}

/// Records progress.
#[derive(Default)]
pub(crate) struct Recorder {
    pub(crate) events: Mutex<Vec<Event>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    Start(String, Option<u64>),
    Advance(u64),
    Finish,
}

impl Progress for Recorder {
    fn start(&self, name: &str, total: Option<u64>) {
        self.events.lock().unwrap().push(Event::Start(name.to_owned(), total));
    }

    fn advance(&self, bytes: u64) {
        self.events.lock().unwrap().push(Event::Advance(bytes));
    }

    fn finish(&self) {
        self.events.lock().unwrap().push(Event::Finish);
    }
}

impl Recorder {
    /// For every finished file, its name, its total and the bytes reported since its last start.
    pub(crate) fn finished(&self) -> Vec<(String, Option<u64>, u64)> {
        let mut out = Vec::new();
        let mut current = None;
        for event in self.events.lock().unwrap().iter() {
            match event {
                Event::Start(name, total) => current = Some((name.clone(), *total, 0)),
                Event::Advance(bytes) => current.as_mut().unwrap().2 += bytes,
                Event::Finish => out.push(current.take().unwrap()),
            }
        }
        out
    }
}
