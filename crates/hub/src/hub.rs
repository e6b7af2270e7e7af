//! Models and data sets by id, from the cache or over the network.

use std::fs;
use std::path::{Path, PathBuf};

use crate::cache::RepoFolder;
use crate::client::{Client, Subject};
use crate::download::{Wanted, fetch};
use crate::names::{
    Repo, RepoKind, as_sha256, blob_name, check_file_name, check_revision, is_commit, path_fault,
};
use crate::select::{self, Held, Weights};
use crate::{HubError, HubSettings, Progress};

/// The default revision.
const DEFAULT_REVISION: &str = "main";

/// A hub and its local cache.
#[derive(Debug)]
pub struct Hub {
    settings: HubSettings,
    client: Client,
}

/// A model on the local disk.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Snapshot {
    /// The folder with config, tokenizer and weights. Do not write in it: other programs share it.
    pub folder: PathBuf,
    /// The commit that the requested revision resolved to.
    pub commit: String,
    /// The files of the weights, in the order of their names.
    pub weights: Vec<PathBuf>,
    /// Whether everything was in the cache, so that the network was not used.
    pub from_cache: bool,
}

/// The small files of a model on the local disk.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Companions {
    /// The folder that holds them. Do not write in it: other programs share it.
    pub folder: PathBuf,
    /// The commit of the repository; pass it as the revision of the weights so that they match.
    pub commit: String,
}

/// One file on the local disk.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct HubFile {
    /// Where it is. Do not write to it: other programs share it.
    pub path: PathBuf,
    /// The commit of the repository it belongs to.
    pub commit: String,
    /// Whether it was in the cache.
    pub from_cache: bool,
}

/// The names of the files in a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Listing {
    /// The names, `/` between their parts, sorted. Names that are not safe relative paths are left out.
    pub names: Vec<String>,
    /// The commit listed; pass it as the revision of the files so that they match.
    pub commit: String,
    /// Whether the names are only those in the cache, because of offline mode.
    pub from_cache: bool,
}

/// What the cache holds of a model.
enum Cached {
    Complete(Snapshot),
    WithoutTokenizer(Snapshot),
    Missing(String),
}

impl Hub {
    /// A hub with explicit settings.
    ///
    /// # Errors
    /// [`HubError::Setting`] or [`HubError::Io`] for an endpoint, a token or certificates that cannot be used.
    pub fn new(settings: HubSettings) -> Result<Self, HubError> {
        let client = Client::new(&settings)?;
        Ok(Hub { settings, client })
    }

    /// The hub that the environment variables of huggingface_hub describe; see [`HubSettings::from_lookup`].
    ///
    /// # Errors
    /// As [`HubSettings::from_lookup`] and [`Hub::new`].
    pub fn from_env() -> Result<Self, HubError> {
        Hub::new(HubSettings::from_env()?)
    }

    /// The settings in use.
    pub fn settings(&self) -> &HubSettings {
        &self.settings
    }

    /// Fetches a model: configuration, tokenizer, and weights in one format.
    ///
    /// A complete model in the cache is used without checking whether the branch has moved. `revision` is a branch, a tag
    /// or a commit, by default `main`. A model without a tokenizer is not an error.
    ///
    /// # Errors
    /// Among others [`HubError::Offline`], [`HubError::RepoNotFound`], [`HubError::AccessDenied`],
    /// [`HubError::NotAModel`] and [`HubError::Network`].
    pub fn model(
        &self,
        id: &str,
        revision: Option<&str>,
        progress: &dyn Progress,
    ) -> Result<Snapshot, HubError> {
        let (repo, revision) = checked(RepoKind::Model, id, revision)?;
        let folder = self.folder(&repo);
        match self.cached_model(&folder, revision)? {
            Cached::Complete(snapshot) => Ok(snapshot),
            Cached::WithoutTokenizer(snapshot) if self.settings.offline => Ok(snapshot),
            // The weights are in the cache, so the commit stays; if the hub does not answer, the model is used as it is.
            Cached::WithoutTokenizer(snapshot) => {
                Ok(self.fetch_model(&repo, &folder, &snapshot.commit, progress).unwrap_or(snapshot))
            }
            Cached::Missing(missing) if self.settings.offline => {
                Err(offline(&repo, revision, missing, &folder))
            }
            Cached::Missing(_) => self.fetch_model(&repo, &folder, revision, progress),
        }
    }

    /// Fetches the small files of a model: its configuration and tokenizer. In offline mode, and if the weights are in
    /// the cache, only the cache is used.
    ///
    /// # Errors
    /// As [`Hub::model`].
    pub fn companions(
        &self,
        id: &str,
        revision: Option<&str>,
        progress: &dyn Progress,
    ) -> Result<Companions, HubError> {
        let (repo, revision) = checked(RepoKind::Model, id, revision)?;
        let folder = self.folder(&repo);
        match self.cached_model(&folder, revision)? {
            Cached::Complete(snapshot) | Cached::WithoutTokenizer(snapshot) => {
                return Ok(Companions { folder: snapshot.folder, commit: snapshot.commit });
            }
            Cached::Missing(missing) if self.settings.offline => {
                return Err(offline(&repo, revision, missing, &folder));
            }
            Cached::Missing(_) => {}
        }
        let info = self.client.repo_info(Subject { repo: &repo, revision, file: None })?;
        let names: Vec<&str> = info.names().collect();
        for file in select::companions(&names) {
            self.bring(&repo, &folder, &info.sha, file, None, progress)?;
        }
        folder.remember(revision, &info.sha)?;
        Ok(Companions { folder: folder.snapshot(&info.sha), commit: info.sha })
    }

    /// Fetches one file of a model repository, for example one of several GGUF files.
    ///
    /// # Errors
    /// As [`Hub::dataset_file`].
    pub fn model_file(
        &self,
        id: &str,
        revision: Option<&str>,
        file: &str,
        progress: &dyn Progress,
    ) -> Result<HubFile, HubError> {
        let (repo, revision) = checked(RepoKind::Model, id, revision)?;
        self.file(&repo, revision, file, None, progress)
    }

    /// [`Self::model_file`] on the branch `main`, for a file whose SHA-256 is known. If the hub announces another digest,
    /// nothing is downloaded. The digest of the file itself is not checked here when it comes from the cache.
    ///
    /// # Errors
    /// [`HubError::WrongHash`], and as [`Self::model_file`].
    pub fn pinned_model_file(
        &self,
        id: &str,
        file: &str,
        sha256: &str,
        progress: &dyn Progress,
    ) -> Result<HubFile, HubError> {
        let (repo, revision) = checked(RepoKind::Model, id, None)?;
        self.file(&repo, revision, file, Some(sha256), progress)
    }

    /// Fetches one file of a data set.
    ///
    /// # Errors
    /// Among others [`HubError::Offline`], [`HubError::FileNotFound`], [`HubError::UnsafeName`] and
    /// [`HubError::Network`].
    pub fn dataset_file(
        &self,
        id: &str,
        revision: Option<&str>,
        file: &str,
        progress: &dyn Progress,
    ) -> Result<HubFile, HubError> {
        let (repo, revision) = checked(RepoKind::Dataset, id, revision)?;
        self.file(&repo, revision, file, None, progress)
    }

    /// Lists the files of a data set; in offline mode, those in the cache.
    ///
    /// # Errors
    /// Among others [`HubError::Offline`] when nothing of it is in the cache, [`HubError::RepoNotFound`] and
    /// [`HubError::Network`].
    pub fn dataset_files(&self, id: &str, revision: Option<&str>) -> Result<Listing, HubError> {
        let (repo, revision) = checked(RepoKind::Dataset, id, revision)?;
        if self.settings.offline {
            let folder = self.folder(&repo);
            let commit = folder.commit(revision).filter(|commit| folder.snapshot(commit).is_dir());
            let commit = commit.ok_or_else(|| offline(&repo, revision, "every file".to_owned(), &folder))?;
            return Ok(Listing { names: folder.files(&commit), commit, from_cache: true });
        }
        let info = self.client.repo_info(Subject { repo: &repo, revision, file: None })?;
        let safe = info.names().filter(|name| path_fault(name).is_none());
        let mut names: Vec<String> = safe.map(str::to_owned).collect();
        names.sort();
        Ok(Listing { names, commit: info.sha, from_cache: false })
    }

    fn folder(&self, repo: &Repo<'_>) -> RepoFolder {
        RepoFolder::new(&self.settings.cache, repo, self.settings.symlinks)
    }

    fn cached_model(&self, folder: &RepoFolder, revision: &str) -> Result<Cached, HubError> {
        let snapshot = folder.commit(revision).map(|commit| (folder.snapshot(&commit), commit));
        let Some((path, commit)) = snapshot.filter(|(path, _)| path.is_dir()) else {
            return Ok(Cached::Missing("every file".to_owned()));
        };
        Ok(match select::held(&path)? {
            Held::Missing(missing) => Cached::Missing(missing),
            Held::Model { weights, has_tokenizer } => {
                let snapshot = Snapshot { folder: path, commit, weights, from_cache: true };
                if has_tokenizer { Cached::Complete(snapshot) } else { Cached::WithoutTokenizer(snapshot) }
            }
        })
    }

    /// Fetches what the cache lacks of a model. The weights come last, so that a snapshot with weights is complete.
    fn fetch_model(
        &self,
        repo: &Repo<'_>,
        folder: &RepoFolder,
        revision: &str,
        progress: &dyn Progress,
    ) -> Result<Snapshot, HubError> {
        let info = self.client.repo_info(Subject { repo, revision, file: None })?;
        let names: Vec<&str> = info.names().collect();
        let lacks = |missing: &str| {
            let (id, commit) = (repo.id.to_owned(), info.sha.clone());
            HubError::NotAModel { id, commit, missing: missing.to_owned() }
        };
        let weights = select::weights(&names).ok_or_else(|| lacks("weights in a format that can be read"))?;
        if !weights.is_gguf() && !names.contains(&select::CONFIG) {
            return Err(lacks(select::CONFIG));
        }
        let bring = |file: &str| self.bring(repo, folder, &info.sha, file, None, progress);
        for file in select::companions(&names) {
            bring(file)?;
        }
        folder.remember(revision, &info.sha)?;
        let weights = match weights {
            Weights::File(file) => vec![bring(file)?],
            Weights::Parts(files) => files.iter().map(|file| bring(file)).collect::<Result<_, _>>()?,
            Weights::Index(index) => {
                let shards = select::shards(&bring(index)?)?;
                shards.iter().map(|shard| bring(shard)).collect::<Result<_, _>>()?
            }
        };
        Ok(Snapshot { folder: folder.snapshot(&info.sha), commit: info.sha, weights, from_cache: false })
    }

    /// One file of a repository, from the cache if the cache knows its revision.
    fn file(
        &self,
        repo: &Repo<'_>,
        revision: &str,
        file: &str,
        sha256: Option<&str>,
        progress: &dyn Progress,
    ) -> Result<HubFile, HubError> {
        check_file_name(file, "the caller")?;
        let folder = self.folder(repo);
        if let Some(commit) = folder.commit(revision) {
            let path = folder.snapshot(&commit).join(file);
            if path.is_file() {
                return Ok(HubFile { path, commit, from_cache: true });
            }
        }
        if self.settings.offline {
            return Err(offline(repo, revision, format!("`{file}`"), &folder));
        }
        let commit = if is_commit(revision) {
            revision.to_owned()
        } else {
            self.client.repo_info(Subject { repo, revision, file: None })?.sha
        };
        let path = self.bring(repo, &folder, &commit, file, sha256, progress)?;
        folder.remember(revision, &commit)?;
        Ok(HubFile { path, commit, from_cache: false })
    }

    /// Fetches one file of one commit unless the cache has it, and returns its path. If the SHA-256 is `pinned`, a file
    /// that the hub announces with another is refused.
    fn bring(
        &self,
        repo: &Repo<'_>,
        folder: &RepoFolder,
        commit: &str,
        file: &str,
        pinned: Option<&str>,
        progress: &dyn Progress,
    ) -> Result<PathBuf, HubError> {
        check_file_name(file, repo.id)?;
        let pointer = folder.snapshot(commit).join(file);
        if pointer.is_file() {
            return Ok(pointer);
        }
        let url = repo.file_url(&self.client.endpoint, commit, file);
        let subject = Subject { repo, revision: commit, file: Some(file) };
        let info = self.client.file_info(&url, subject)?;
        if let Some(other) = info.commit.as_deref().filter(|other| *other != commit) {
            let reason = format!("it is from commit {other} instead of {commit}");
            return Err(HubError::BadAnswer { url, reason });
        }
        if let (Some(expected), Some(got)) = (pinned, as_sha256(&info.etag))
            && expected != got
        {
            let (file, expected, got) = (file.to_owned(), expected.to_owned(), got.to_owned());
            return Err(HubError::WrongHash { file, expected, got });
        }
        let blob_name = blob_name(&info.etag);
        let blob = folder.blob(&blob_name);
        let _lock = folder.lock(&blob_name, file, progress)?;
        // The previous holder of the lock may have fetched this file.
        if pointer.is_file() {
            return Ok(pointer);
        }
        if !is_whole(&blob, info.size) {
            let sha256 = as_sha256(&info.etag);
            fetch(
                &self.client,
                &Wanted { url: &url, name: file, size: info.size, sha256, subject },
                &blob,
                progress,
            )?;
        }
        folder.link(commit, file, &blob_name)
    }
}

/// Checks an id and a revision, by default `main`.
fn checked<'a>(
    kind: RepoKind,
    id: &'a str,
    revision: Option<&'a str>,
) -> Result<(Repo<'a>, &'a str), HubError> {
    let repo = Repo::new(kind, id)?;
    let revision = revision.unwrap_or(DEFAULT_REVISION);
    check_revision(revision)?;
    Ok((repo, revision))
}

/// Whether a blob exists with the size that the hub announced.
fn is_whole(blob: &Path, size: Option<u64>) -> bool {
    fs::metadata(blob).is_ok_and(|meta| meta.is_file() && size.is_none_or(|size| size == meta.len()))
}

fn offline(repo: &Repo<'_>, revision: &str, missing: String, folder: &RepoFolder) -> HubError {
    let (id, revision, folder) = (repo.id.to_owned(), revision.to_owned(), folder.root.clone());
    HubError::Offline { id, revision, missing, folder }
}
