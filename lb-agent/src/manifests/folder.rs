//! The files of the folder, read again only where they may have changed.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use tracing::debug;

use super::{
    document::{Place, documents},
    object::{Outcome, outcome},
};

/// A file that was written so shortly before it was read may be written again without a visible
/// difference: time stamps are as coarse as the kernel's tick.
const RACY: Duration = Duration::from_secs(1);

/// A mounted ConfigMap's files are links through this one, which is replaced to change them all.
const SWAPPED: &str = "..data";

/// How often a folder that is replaced while being read is read again at once.
const SWAP_RETRIES: usize = 3;

/// The folder cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("--manifests {}: {source}; give a folder that can be read", path.display())]
pub struct FolderError {
    /// The folder.
    pub path: PathBuf,
    /// Why.
    pub source: io::Error,
}

/// What one file says.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum FileContent {
    /// Its documents, those of other kinds left out.
    Documents(Vec<(Place, Outcome)>),
    /// It could not be read.
    Unreadable(String),
    /// Emptied a moment ago: somebody is about to write it.
    InTheMaking,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

#[derive(Debug)]
struct Cached {
    /// `None`: to be read again in any case.
    stamp: Option<Stamp>,
    content: FileContent,
}

impl Cached {
    fn is_still(&self, metadata: Option<&fs::Metadata>) -> bool {
        self.stamp.is_some() && self.stamp == metadata.map(Stamp::of)
    }
}

/// A folder and what was last read of it.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    node_name: String,
    files: BTreeMap<String, Cached>,
}

impl Folder {
    pub(super) fn new(path: PathBuf, node_name: String) -> Self {
        Self {
            path,
            node_name,
            files: BTreeMap::new(),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Brings itself up to date and says whether anything is different. What was read before stays
    /// if this fails.
    pub(super) fn read(&mut self) -> Result<bool, FolderError> {
        let mut is_changed = false;
        for _ in 0..SWAP_RETRIES {
            let before = fs::read_link(self.path.join(SWAPPED)).ok();
            is_changed |= self.read_once()?;
            if before == fs::read_link(self.path.join(SWAPPED)).ok() {
                break;
            }
        }
        Ok(is_changed)
    }

    /// By name, the order in which documents of one object win.
    pub(super) fn contents(&self) -> impl Iterator<Item = (&str, &FileContent)> {
        let files = self.files.iter();
        files.map(|(name, cached)| (name.as_str(), &cached.content))
    }

    /// Folders whose changes can change what is read: this one, those that hold what links in it
    /// lead to, and the one that holds this one where that is a link itself.
    pub(super) fn watched(&self) -> Vec<PathBuf> {
        let links = self.files.keys().map(|name| self.path.join(name));
        let links = links
            .chain([self.path.clone()])
            .filter(|path| path.is_symlink());
        let mut folders = vec![self.path.clone()];
        for link in links {
            let target = fs::canonicalize(&link).ok();
            folders.extend(target.iter().filter_map(|t| t.parent()).map(Path::to_owned));
        }
        let own_parent = self.path.parent().filter(|_| self.path.is_symlink());
        folders.extend(own_parent.map(Path::to_owned));
        folders.sort();
        folders.dedup();
        folders
    }

    fn read_once(&mut self) -> Result<bool, FolderError> {
        let names = self.names().map_err(|source| FolderError {
            path: self.path.clone(),
            source,
        })?;
        let mut old = std::mem::take(&mut self.files);
        let mut is_changed = false;
        for name in names {
            let metadata = fs::metadata(self.path.join(&name)).ok();
            let cached = match old.remove(&name) {
                Some(known) if known.is_still(metadata.as_ref()) => known,
                known => {
                    let read = self.read_file(&name, metadata.as_ref());
                    is_changed |= known.is_none_or(|known| known.content != read.content);
                    read
                }
            };
            self.files.insert(name, cached);
        }
        Ok(is_changed || !old.is_empty())
    }

    fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let Ok(name) = entry?.file_name().into_string() else {
                continue;
            };
            if is_manifest(&name) && !self.path.join(&name).is_dir() {
                names.push(name);
            }
        }
        Ok(names)
    }

    /// `metadata` is from before the reading, so that a change in between is seen the next time.
    fn read_file(&self, name: &str, metadata: Option<&fs::Metadata>) -> Cached {
        let is_fresh = metadata.is_none_or(is_fresh);
        let content = match fs::read_to_string(self.path.join(name)) {
            Ok(text) if text.is_empty() && is_fresh => FileContent::InTheMaking,
            Ok(text) => self.parse(name, &text),
            Err(error) => FileContent::Unreadable(format!("cannot be read: {error}; correct it")),
        };
        Cached {
            stamp: metadata.filter(|_| !is_fresh).map(Stamp::of),
            content,
        }
    }

    fn parse(&self, name: &str, text: &str) -> FileContent {
        let mut found = Vec::new();
        for document in documents(text, name.ends_with(".json")) {
            let outcome = match &document.value {
                Ok(value) => outcome(value, &self.node_name),
                Err(reason) => Outcome::Nameless(reason.clone()),
            };
            if outcome == Outcome::Ignored {
                debug!(
                    file = name,
                    document = document.place.document,
                    "a document of another kind"
                );
                continue;
            }
            found.push((document.place, outcome));
        }
        FileContent::Documents(found)
    }
}

fn is_manifest(name: &str) -> bool {
    let endings = [".yaml", ".yml", ".json"];
    !name.starts_with('.') && endings.iter().any(|ending| name.ends_with(ending))
}

fn is_fresh(metadata: &fs::Metadata) -> bool {
    let modified = metadata.modified().unwrap_or(SystemTime::now());
    modified.elapsed().is_ok_and(|age| age < RACY)
}

impl Stamp {
    fn of(metadata: &fs::Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}
