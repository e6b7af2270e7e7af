//! Fetching one file into a blob, resuming earlier attempts.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use ureq::Body;
use ureq::http::{Response, StatusCode};

use crate::client::{Client, Failure, Subject, network};
use crate::{HubError, Progress};

const CHUNK: usize = 256 * 1024;
/// Maximum number of interruptions, even if each brings new bytes.
const MAX_INTERRUPTIONS: u32 = 1000;

/// One file to fetch.
#[derive(Debug)]
pub(crate) struct Wanted<'a> {
    pub(crate) url: &'a str,
    /// The name for progress and messages.
    pub(crate) name: &'a str,
    pub(crate) size: Option<u64>,
    pub(crate) sha256: Option<&'a str>,
    pub(crate) subject: Subject<'a>,
}

/// Fetches `wanted` to the path `blob` through `blob.incomplete`, which the next run resumes if this one fails.
pub(crate) fn fetch(
    client: &Client,
    wanted: &Wanted<'_>,
    blob: &Path,
    progress: &dyn Progress,
) -> Result<(), HubError> {
    let mut partial = Partial::open(blob, wanted.size)?;
    let mut kept_from_before = partial.len > 0;
    loop {
        progress.start(wanted.name, wanted.size);
        progress.advance(partial.len);
        receive_all(client, wanted, &mut partial, progress)?;
        match partial.verify(wanted) {
            Ok(()) => break,
            // The bytes of an earlier run may be wrong, so the download restarts once from zero.
            Err(_) if kept_from_before => kept_from_before = false,
            Err(error) => {
                partial.discard();
                return Err(error);
            }
        }
        partial.reset()?;
    }
    partial.keep_as(blob)?;
    progress.finish();
    Ok(())
}

/// Requests the missing bytes until there are none, with a limited number of attempts without new bytes.
fn receive_all(
    client: &Client,
    wanted: &Wanted<'_>,
    partial: &mut Partial,
    progress: &dyn Progress,
) -> Result<(), HubError> {
    let mut failures = 0;
    let mut has_arrived = false;
    for _ in 0..MAX_INTERRUPTIONS {
        if wanted.size == Some(partial.len) {
            return Ok(());
        }
        let before = partial.len;
        let failure = match receive(client, wanted, partial, progress) {
            Ok(()) => return Ok(()),
            Err(failure) => failure,
        };
        if partial.len > before {
            failures = 0;
            has_arrived = true;
        }
        let failure = if has_arrived { failure.passing_if_network() } else { failure };
        client.pause_or_give_up(failure, &mut failures)?;
    }
    Err(network(wanted.url, &"the connection broke too often"))
}

/// One request for the missing bytes.
fn receive(
    client: &Client,
    wanted: &Wanted<'_>,
    partial: &mut Partial,
    progress: &dyn Progress,
) -> Result<(), Failure> {
    let from = (partial.len > 0).then_some(partial.len);
    let mut response = client.get(wanted.url, from, wanted.subject)?;
    if from.is_some() && !continues_at(&response, partial.len, wanted.size) {
        // The server sends the whole file, or cannot send this range, so the partial file is discarded.
        partial.reset().map_err(Failure::fatal)?;
        progress.start(wanted.name, wanted.size);
        if response.status() != StatusCode::OK {
            response = client.get(wanted.url, None, wanted.subject)?;
        }
    }
    copy_body(response, wanted, partial, progress)?;
    match wanted.size {
        Some(size) if partial.len < size => {
            Err(Failure::transient(network(wanted.url, &"the connection ended early")))
        }
        _ => Ok(()),
    }
}

/// Whether the response starts at byte `from` of a file of the expected size.
fn continues_at(response: &Response<Body>, from: u64, size: Option<u64>) -> bool {
    let range = response.headers().get("content-range").and_then(|value| value.to_str().ok());
    let Some((range, total)) = range.and_then(|r| r.strip_prefix("bytes ")).and_then(|r| r.split_once('/'))
    else {
        return false;
    };
    let starts_right = range.split_once('-').and_then(|(first, _)| first.trim().parse().ok()) == Some(from);
    let same_file = total == "*" || size.is_none_or(|size| total.trim().parse() == Ok(size));
    response.status() == StatusCode::PARTIAL_CONTENT && starts_right && same_file
}

fn copy_body(
    mut response: Response<Body>,
    wanted: &Wanted<'_>,
    partial: &mut Partial,
    progress: &dyn Progress,
) -> Result<(), Failure> {
    let mut body = response.body_mut().as_reader();
    let mut buffer = vec![0; CHUNK];
    loop {
        let n = body.read(&mut buffer).map_err(|e| Failure::transient(network(wanted.url, &e)))?;
        if n == 0 {
            return Ok(());
        }
        partial.append(&buffer[..n]).map_err(Failure::fatal)?;
        progress.advance(n as u64);
        if let Some(expected) = wanted.size
            && partial.len > expected
        {
            let (file, got) = (wanted.name.to_owned(), partial.len);
            partial.discard();
            return Err(Failure::fatal(HubError::WrongSize { file, expected, got }));
        }
    }
}

/// The bytes received so far, and their digest.
struct Partial {
    file: File,
    path: PathBuf,
    len: u64,
    digest: Sha256,
}

impl Partial {
    fn open(blob: &Path, size: Option<u64>) -> Result<Self, HubError> {
        let mut path = blob.as_os_str().to_owned();
        path.push(".incomplete");
        let path = PathBuf::from(path);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(HubError::io("create the folder", folder))?;
        }
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let file = file.map_err(HubError::io("write", &path))?;
        let mut partial = Partial { file, path, len: 0, digest: Sha256::new() };
        partial.digest_existing()?;
        if size.is_some_and(|size| partial.len > size) {
            partial.reset()?;
        }
        Ok(partial)
    }

    fn digest_existing(&mut self) -> Result<(), HubError> {
        let mut buffer = vec![0; CHUNK];
        loop {
            let n = self.file.read(&mut buffer).map_err(HubError::io("read", &self.path))?;
            if n == 0 {
                return Ok(());
            }
            self.digest.update(&buffer[..n]);
            self.len += n as u64;
        }
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), HubError> {
        self.file.write_all(bytes).map_err(HubError::io("write", &self.path))?;
        self.digest.update(bytes);
        self.len += bytes.len() as u64;
        Ok(())
    }

    fn reset(&mut self) -> Result<(), HubError> {
        self.file.set_len(0).map_err(HubError::io("write", &self.path))?;
        self.file.seek(SeekFrom::Start(0)).map_err(HubError::io("write", &self.path))?;
        self.len = 0;
        self.digest = Sha256::new();
        Ok(())
    }

    fn verify(&self, wanted: &Wanted<'_>) -> Result<(), HubError> {
        let file = || wanted.name.to_owned();
        if let Some(expected) = wanted.size
            && expected != self.len
        {
            return Err(HubError::WrongSize { file: file(), expected, got: self.len });
        }
        let got = hex::encode(self.digest.clone().finalize());
        match wanted.sha256 {
            Some(expected) if expected != got => {
                Err(HubError::WrongHash { file: file(), expected: expected.to_owned(), got })
            }
            _ => Ok(()),
        }
    }

    /// Removes the file. A failure must not hide the error that led here.
    fn discard(&self) {
        let _ = fs::remove_file(&self.path);
    }

    fn keep_as(self, blob: &Path) -> Result<(), HubError> {
        // Closed first, because Windows may not rename open files.
        drop(self.file);
        fs::rename(&self.path, blob).map_err(HubError::io("write", blob))
    }
}
