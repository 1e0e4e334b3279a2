//! Follows the folder: the kernel tells of changes, a look every few seconds finds what it did not.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use notify::{
    EventKind, RecommendedWatcher, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode},
};
use tokio::{
    sync::{Notify, mpsc},
    time::{sleep, timeout},
};
use tracing::{info, warn};

use super::{
    folder::{Folder, FolderError},
    state::State,
};
use crate::model::Event;

/// Changes that come closer together than this are taken as one.
const QUIET: Duration = Duration::from_millis(50);
/// Changes without a pause are looked at after this time.
const PATIENCE: Duration = Duration::from_secs(1);
/// The look without a reason: network file systems tell nothing, and watches have limits.
const RESCAN: Duration = Duration::from_secs(3);

/// Why the folder is followed no longer.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// At the start, the folder must be there.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The kernel refuses an inotify instance.
    #[error("cannot watch folders: {0}; raise the sysctl fs.inotify.max_user_instances")]
    Inotify(#[from] notify::Error),
    /// A thread that reads the folder could not finish.
    #[error("reading the folder was broken off: {0}")]
    Read(#[from] tokio::task::JoinError),
}

/// A folder that has been read once.
#[derive(Debug)]
pub struct Manifests {
    reader: Reader,
    watches: Watches,
    changed: Arc<Notify>,
}

impl Manifests {
    /// Reads the folder. Of Nodes only `node_name` is ours.
    ///
    /// # Errors
    /// The folder cannot be read, or the kernel gives no inotify instance.
    pub async fn open(path: &Path, node_name: &str) -> Result<Self, WatchError> {
        let changed = Arc::new(Notify::new());
        let mut watches = Watches::new(Arc::clone(&changed))?;
        let path = std::path::absolute(path).map_err(|source| FolderError {
            path: path.to_owned(),
            source,
        })?;
        let mut reader = Reader {
            folder: Folder::new(path, node_name.to_owned()),
            state: State::default(),
            is_lost: false,
        };
        // before reading: what changes in between is told
        watches.follow(&reader.folder.watched());
        let reader = tokio::task::spawn_blocking(move || {
            reader.folder.read()?;
            reader.state.update(reader.folder.contents());
            Ok::<_, FolderError>(reader)
        });
        let reader = reader.await??;
        watches.follow(&reader.folder.watched());
        // links may have changed before their targets were watched
        changed.notify_one();
        Ok(Self {
            reader,
            watches,
            changed,
        })
    }

    /// Tells everything, then every change, until nobody listens.
    ///
    /// # Errors
    /// Never for what is in the folder, nor for its loss: the last state stays in force.
    pub async fn run(mut self, events: mpsc::Sender<Event>) -> Result<(), WatchError> {
        let mut news = self.reader.state.replace_events();
        loop {
            for event in news {
                if events.send(event).await.is_err() {
                    return Ok(());
                }
            }
            tokio::select! {
                () = self.changed.notified() => settle(&self.changed).await,
                () = sleep(RESCAN) => {}
                () = events.closed() => return Ok(()),
            }
            let mut reader = self.reader;
            let read = tokio::task::spawn_blocking(move || {
                let news = reader.refresh();
                (reader, news)
            });
            (self.reader, news) = read.await?;
            self.watches.follow(&self.reader.folder.watched());
        }
    }
}

/// Waits until nothing has changed for a moment.
async fn settle(changed: &Notify) {
    let quiet = async { while timeout(QUIET, changed.notified()).await.is_ok() {} };
    if timeout(PATIENCE, quiet).await.is_err() {
        // still changing: what comes next is looked at next
        changed.notify_one();
    }
}

#[derive(Debug)]
struct Reader {
    folder: Folder,
    state: State,
    is_lost: bool,
}

impl Reader {
    fn refresh(&mut self) -> Vec<Event> {
        let is_changed = match self.folder.read() {
            Ok(is_changed) => is_changed,
            Err(error) if self.is_lost => {
                tracing::debug!(%error, "the manifests still cannot be read");
                return Vec::new();
            }
            Err(error) => {
                self.is_lost = true;
                warn!(%error, "the manifests cannot be read; what they last said stays in force");
                return Vec::new();
            }
        };
        if std::mem::take(&mut self.is_lost) {
            info!(folder = %self.folder.path().display(), "the manifests can be read again");
        }
        if !is_changed {
            return Vec::new();
        }
        self.state.update(self.folder.contents())
    }
}

/// Watched folders, each as what it was when the watch began: a watch does not follow the name.
#[derive(Debug)]
struct Watches {
    watcher: RecommendedWatcher,
    folders: BTreeMap<PathBuf, (u64, u64)>,
}

impl Watches {
    fn new(changed: Arc<Notify>) -> Result<Self, notify::Error> {
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if event.is_err() || event.is_ok_and(|event| is_change(event.kind)) {
                changed.notify_one();
            }
        })?;
        Ok(Self {
            watcher,
            folders: BTreeMap::new(),
        })
    }

    /// Watches these and no others. One that cannot be watched is looked at now and then all the
    /// same.
    fn follow(&mut self, wanted: &[PathBuf]) {
        let found = wanted
            .iter()
            .filter_map(|path| Some((path.clone(), identity(path).ok()?)));
        let found: BTreeMap<_, _> = found.collect();
        for (path, known) in std::mem::take(&mut self.folders) {
            if found.get(&path) == Some(&known) {
                self.folders.insert(path, known);
            } else if let Err(error) = self.watcher.unwatch(&path) {
                tracing::debug!(%error, path = %path.display(), "a watch had already ended");
            }
        }
        for (path, identity) in found {
            if self.folders.contains_key(&path) {
                continue;
            }
            match self.watcher.watch(&path, RecursiveMode::NonRecursive) {
                Ok(()) => {
                    self.folders.insert(path, identity);
                }
                Err(error) => {
                    tracing::debug!(%error, path = %path.display(), "a folder cannot be watched")
                }
            }
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

/// Our own reading is no change.
fn is_change(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
        EventKind::Access(_) => false,
        EventKind::Any
        | EventKind::Create(_)
        | EventKind::Modify(_)
        | EventKind::Remove(_)
        | EventKind::Other => true,
    }
}
