//! Untrusted names that become paths or addresses: repository ids, revisions, file names, entity tags.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use sha2::{Digest, Sha256};

use crate::HubError;

/// Kinds of repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RepoKind {
    Model,
    Dataset,
}

/// A repository with a checked id.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Repo<'a> {
    pub(crate) kind: RepoKind,
    pub(crate) id: &'a str,
}

impl<'a> Repo<'a> {
    pub(crate) fn new(kind: RepoKind, id: &'a str) -> Result<Self, HubError> {
        check_repo_id(id)?;
        Ok(Repo { kind, id })
    }

    /// The folder name in the cache, for example `models--org--name`.
    pub(crate) fn folder_name(&self) -> String {
        let kind = match self.kind {
            RepoKind::Model => "models",
            RepoKind::Dataset => "datasets",
        };
        format!("{kind}--{}", self.id.replace('/', "--"))
    }

    /// The address of the file listing of a revision.
    pub(crate) fn api_url(&self, endpoint: &str, revision: &str) -> String {
        let kind = match self.kind {
            RepoKind::Model => "models",
            RepoKind::Dataset => "datasets",
        };
        format!("{endpoint}/api/{kind}/{}/revision/{}", self.id, percent_encode(revision, false))
    }

    /// The web page of the repository.
    pub(crate) fn page(&self, endpoint: &str) -> String {
        match self.kind {
            RepoKind::Model => format!("{endpoint}/{}", self.id),
            RepoKind::Dataset => format!("{endpoint}/datasets/{}", self.id),
        }
    }

    /// The address of one file.
    pub(crate) fn file_url(&self, endpoint: &str, revision: &str, file: &str) -> String {
        format!(
            "{}/resolve/{}/{}",
            self.page(endpoint),
            percent_encode(revision, false),
            percent_encode(file, true)
        )
    }
}

/// Checks that `id` is `org/name` or a legacy `name`, with the characters the hub allows.
///
/// # Errors
/// [`HubError::InvalidId`] names the broken rule.
pub fn check_repo_id(id: &str) -> Result<(), HubError> {
    let invalid = |reason| Err(HubError::InvalidId { id: printable(id), reason });
    if id.is_empty() {
        return invalid("it is empty");
    }
    if id.len() > 193 {
        return invalid("it is longer than 96 characters on a side");
    }
    if id.contains('\\') || id.starts_with(['/', '.', '~']) {
        return invalid("it looks like a path, and there is no such file or folder");
    }
    if id.matches('/').count() > 1 {
        return invalid("it has more than one `/`");
    }
    if id.contains("--") || id.contains("..") {
        return invalid("`--` and `..` are not allowed");
    }
    if id.ends_with(".git") {
        return invalid("it must not end in `.git`");
    }
    for part in id.split('/') {
        if part.is_empty() || part.len() > 96 {
            return invalid("each side of the `/` has 1 to 96 characters");
        }
        if !part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.')) {
            return invalid("only letters, digits, `-`, `_` and `.` are allowed");
        }
        if part.starts_with(['-', '.']) || part.ends_with(['-', '.']) {
            return invalid("a part must not start or end with `-` or `.`");
        }
    }
    Ok(())
}

/// Checks a branch, tag, commit or `refs/pr/N`; it becomes a path below `refs/`.
pub(crate) fn check_revision(revision: &str) -> Result<(), HubError> {
    let invalid = |reason| Err(HubError::InvalidRevision { revision: printable(revision), reason });
    if let Some(reason) = path_fault(revision) {
        return invalid(reason);
    }
    // The characters that git itself forbids in the name of a ref.
    if revision.contains([' ', '~', '^', ':', '?', '*', '[']) || revision.contains("..") {
        return invalid("it has a character that no git revision has");
    }
    Ok(())
}

/// Checks a file name with `/` between its parts before it is joined to a folder.
pub(crate) fn check_file_name(name: &str, origin: &str) -> Result<(), HubError> {
    match path_fault(name) {
        None => Ok(()),
        Some(reason) => {
            Err(HubError::UnsafeName { name: printable(name), origin: origin.to_owned(), reason })
        }
    }
}

/// Why `name` is not a relative path that stays inside the folder it is joined to, if so.
pub(crate) fn path_fault(name: &str) -> Option<&'static str> {
    if name.is_empty() || name.len() > 1024 {
        return Some("it must have 1 to 1024 bytes");
    }
    if name.contains('\\') {
        return Some("a backslash is a path separator on Windows");
    }
    if name.chars().any(char::is_control) {
        return Some("it has control characters");
    }
    if cfg!(windows) && name.contains([':', '<', '>', '"', '|', '?', '*']) {
        return Some("it has a character that Windows forbids");
    }
    if name.starts_with('/') {
        return Some("it is an absolute path");
    }
    // This also catches the empty part of `a//b` and of a trailing slash.
    if name.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Some("it has an empty, `.` or `..` part");
    }
    None
}

/// Whether `text` is a safe folder or file name on every system, such as a commit.
pub(crate) fn is_plain_component(text: &str) -> bool {
    (1..=128).contains(&text.len())
        && !text.starts_with('.')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// Whether a revision is a full commit hash, which cannot move.
pub(crate) fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// The entity tag if it is a SHA-256, as for files in large file storage.
pub(crate) fn as_sha256(etag: &str) -> Option<&str> {
    (etag.len() == 64 && etag.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))).then_some(etag)
}

/// Strips the quotes and the weak mark of an ETag header, as huggingface_hub does before it names a blob.
pub(crate) fn bare_etag(header: &str) -> &str {
    let header = header.trim();
    header.strip_prefix("W/").unwrap_or(header).trim_matches('"')
}

/// The file name of the blob with this entity tag: the tag itself if it is a safe name, as in huggingface_hub.
pub(crate) fn blob_name(etag: &str) -> String {
    if is_plain_component(etag) {
        etag.to_owned()
    } else {
        format!("etag-{}", hex::encode(Sha256::digest(etag)))
    }
}

/// Everything but the unreserved characters of RFC 3986.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// [`RESERVED`] without the slash, for paths.
const RESERVED_IN_PATHS: &AsciiSet = &RESERVED.remove(b'/');

fn percent_encode(text: &str, keep_slash: bool) -> String {
    let set = if keep_slash { RESERVED_IN_PATHS } else { RESERVED };
    utf8_percent_encode(text, set).to_string()
}

/// Untrusted text for an error message: control characters escaped, shortened to 200 characters.
pub(crate) fn printable(text: &str) -> String {
    let mut out: String = text.chars().take(200).flat_map(escape_control).collect();
    if text.chars().nth(200).is_some() {
        out.push('…');
    }
    out
}

fn escape_control(c: char) -> impl Iterator<Item = char> {
    let escaped = if c.is_control() { c.escape_default().collect() } else { String::from(c) };
    escaped.chars().collect::<Vec<_>>().into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn refused(id: &str, says: &str) {
        let message = check_repo_id(id).expect_err("the id must be refused").to_string();
        assert!(message.contains(says), "{message}");
    }

    #[test]
    fn ids_of_the_hub_are_accepted() {
        for id in
            ["gpt2", "Qwen/Qwen2.5-0.5B", "HuggingFaceTB/SmolLM2-135M-Instruct", "a/b_c.d-e", "01-ai/Yi-6B"]
        {
            check_repo_id(id).unwrap_or_else(|e| panic!("{e}"));
        }
    }

    #[test]
    fn other_texts_are_refused_with_the_rule() {
        refused("", "empty");
        refused("./model", "looks like a path");
        refused("/srv/model", "looks like a path");
        refused("a\\b", "looks like a path");
        refused("a/b/c", "more than one");
        refused("a/", "1 to 96");
        refused("a/b c", "letters, digits");
        refused("a/b--c", "`--`");
        refused("a/..b", "`..`");
        refused("a/b.git", ".git");
        refused("-a/b", "start or end");
        refused("a/b\u{1b}[31m", "letters, digits");
        refused(&"x".repeat(97), "1 to 96");
    }

    #[test]
    fn file_names_stay_below_their_folder() {
        for name in ["config.json", "data/train-00000-of-00001.parquet", "a b/ü.txt", "...dots"] {
            check_file_name(name, "a test").unwrap_or_else(|e| panic!("{e}"));
        }
        for name in
            ["", "..", "../x", "a/../../x", "/etc/passwd", "a\\..\\x", "a//b", "a/", "./a", "a\0b", "a\nb"]
        {
            assert!(check_file_name(name, "a test").is_err(), "{name:?} must be refused");
        }
    }

    #[test]
    fn revisions_are_names_of_git() {
        for revision in ["main", "v1.0", "refs/pr/7", "feature/x"] {
            check_revision(revision).unwrap_or_else(|e| panic!("{e}"));
        }
        for revision in ["", "..", "a..b", "../x", "a b", "a~1", "/main", "main\\x"] {
            assert!(check_revision(revision).is_err(), "{revision:?} must be refused");
        }
    }

    #[test]
    fn addresses_are_encoded_as_huggingface_hub_does() {
        let repo = Repo { kind: RepoKind::Dataset, id: "org/set" };
        assert_eq!(
            repo.file_url("https://hub", "refs/pr/1", "a b/ü+#?.txt"),
            "https://hub/datasets/org/set/resolve/refs%2Fpr%2F1/a%20b/%C3%BC%2B%23%3F.txt"
        );
        assert_eq!(repo.api_url("https://hub", "main"), "https://hub/api/datasets/org/set/revision/main");
        assert_eq!(repo.folder_name(), "datasets--org--set");
    }

    #[test]
    fn entity_tags_become_safe_blob_names() {
        assert_eq!(bare_etag("W/\"abc\""), "abc");
        assert_eq!(blob_name("abc-1"), "abc-1");
        assert!(blob_name("../../x").starts_with("etag-"));
        assert!(blob_name("..").starts_with("etag-"));
        assert!(as_sha256(&"a".repeat(64)).is_some());
        assert!(as_sha256(&"a".repeat(40)).is_none());
    }
}
