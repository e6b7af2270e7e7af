//! The folder in which a result is written before it gets its name.

use super::ExportError;
use super::part::PlannedFile;
use std::fs::{self, File};
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A file being written.
pub(super) trait Sink: Write {
    /// Waits until the bytes are on the disk.
    fn sync(&mut self) -> io::Result<()>;
}

impl Sink for File {
    fn sync(&mut self) -> io::Result<()> {
        self.sync_all()
    }
}

/// Creates a file.
pub(super) type Create<'a> = dyn Fn(&Path) -> io::Result<Box<dyn Sink>> + 'a;

/// Creates a file on the disk.
pub(super) fn create(path: &Path) -> io::Result<Box<dyn Sink>> {
    Ok(Box::new(File::create_new(path)?))
}

/// A folder beside the target. Dropping it removes whatever is in it.
#[derive(Debug)]
pub(super) struct Stage {
    /// Holds the model's folder, so that the latter has the usual permissions.
    around: TempDir,
    out: PathBuf,
}

/// Refuses a target that exists, or whose name promises a file.
pub(super) fn check_target(out: &Path) -> Result<(), ExportError> {
    if out.file_name().is_none() {
        return Err(ExportError::target(out, "it names no folder; give the folder that is to be made"));
    }
    if ["gguf", "safetensors"].iter().any(|e| out.extension().is_some_and(|x| x.eq_ignore_ascii_case(e))) {
        return Err(ExportError::target(
            out,
            "an export is a folder, with the model card beside the weights; give its name without the extension",
        ));
    }
    match fs::read_dir(out) {
        Ok(mut entries) => match entries.next() {
            None => Ok(()),
            Some(_) => Err(ExportError::target(
                out,
                "the folder is not empty, and an export overwrites nothing; give another name or move it away",
            )),
        },
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotADirectory => Err(ExportError::target(
            out,
            "there is a file of that name, and an export overwrites nothing; give another name or move it away",
        )),
        Err(e) => Err(ExportError::target(out, format!("it cannot be read: {e}; give another folder"))),
    }
}

impl Stage {
    /// Makes the folder, on the disk of the target.
    pub(super) fn beside(out: &Path, bytes: u64) -> Result<Self, ExportError> {
        let parent = match out.parent() {
            Some(parent) if parent != Path::new("") => parent,
            _ => Path::new("."),
        };
        fs::create_dir_all(parent).map_err(ExportError::write(parent))?;
        if let Some(free) = free_bytes(parent).filter(|free| *free < bytes) {
            return Err(ExportError::Space { path: parent.to_owned(), needed: bytes, free });
        }
        let name = out.file_name().unwrap_or_default().to_string_lossy();
        let around = tempfile::Builder::new().prefix(&format!(".{name}.")).tempdir_in(parent);
        let stage = Self { around: around.map_err(ExportError::write(parent))?, out: out.to_owned() };
        fs::create_dir(stage.folder()).map_err(ExportError::write(out))?;
        Ok(stage)
    }

    fn folder(&self) -> PathBuf {
        self.around.path().join("model")
    }

    /// What opens as a model: a file of the folder, or the folder.
    pub(super) fn model(&self, file: Option<&str>) -> PathBuf {
        file.map_or_else(|| self.folder(), |file| self.folder().join(file))
    }

    /// Writes all files. `progress` is called with the bytes so far.
    pub(super) fn write(
        &self,
        files: &[PlannedFile<'_>],
        create: &Create<'_>,
        progress: &dyn Fn(u64) -> ControlFlow<()>,
    ) -> Result<(), ExportError> {
        let mut written = 0;
        for file in files {
            // Messages are about the name that the user knows.
            let named = self.out.join(&file.name);
            let mut to = create(&self.folder().join(&file.name)).map_err(ExportError::write(&named))?;
            for part in &file.parts {
                let before = written;
                part.read(&mut |bytes| {
                    to.write_all(bytes).map_err(ExportError::write(&named))?;
                    written += bytes.len() as u64;
                    match progress(written) {
                        ControlFlow::Continue(()) => Ok(()),
                        ControlFlow::Break(()) => Err(ExportError::Cancelled),
                    }
                })?;
                assert_eq!(
                    written - before,
                    part.len,
                    "{}: a part has another length than planned",
                    file.name
                );
            }
            to.flush().and_then(|()| to.sync()).map_err(ExportError::write(&named))?;
        }
        sync_folder(&self.folder()).map_err(ExportError::write(&self.out))
    }

    /// Gives the folder its name.
    pub(super) fn publish(self) -> Result<(), ExportError> {
        let folder = self.folder();
        // Not every system renames onto an empty folder.
        match fs::remove_dir(&self.out) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(ExportError::write(&self.out)(e)),
            _ => {}
        }
        fs::rename(&folder, &self.out).map_err(ExportError::write(&self.out))?;
        let parent = self.around.path().parent().unwrap_or(Path::new("."));
        sync_folder(parent).map_err(ExportError::write(&self.out))
    }
}

/// Waits until the names in a folder are on the disk, where a folder can be opened.
fn sync_folder(folder: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

/// The bytes that are free on the disk of a folder, if that disk is known.
fn free_bytes(folder: &Path) -> Option<u64> {
    let folder = fs::canonicalize(folder).ok()?;
    let disks = sysinfo::Disks::new_with_refreshed_list();
    let holds = disks.iter().filter(|disk| folder.starts_with(disk.mount_point()));
    holds.max_by_key(|disk| disk.mount_point().components().count()).map(|disk| disk.available_space())
}
