//! What a laboratory stands on: a cgroup below the cgroup v2 mount and a folder for temporary files.
//!
//! Both carry the laboratory's name, `lb-lab-<pid>-<number>`. What a killed run left behind is found by that name and
//! removed by the next run, once the process that owned it is gone. Network namespaces need no such care: they have no
//! name and die with the last process that holds them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::mount::{MntFlags, umount2};

const PREFIX: &str = "lb-lab-";

/// The cgroup and the folder of one laboratory. Dropping it ends every process in the cgroup, unmounts what is
/// mounted below the folder and removes both.
#[derive(Debug)]
pub(super) struct Ground {
    pub(super) name: String,
    pub(super) cgroup: PathBuf,
    pub(super) dir: PathBuf,
}

impl Ground {
    pub(super) fn new() -> Result<Self> {
        static REAP: Once = Once::new();
        static COUNT: AtomicU32 = AtomicU32::new(0);

        let root = cgroup2_root()?;
        REAP.call_once(remove_stale);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{number}", std::process::id());
        let ground = Self {
            cgroup: root.join(&name),
            dir: std::env::temp_dir().join(&name),
            name,
        };
        for folder in [&ground.cgroup, &ground.dir] {
            fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
        }
        Ok(ground)
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        clear(&self.cgroup, &self.dir);
    }
}

/// Removes the laboratories of processes that are gone. The first laboratory of a process does so by itself.
pub fn remove_stale() {
    if let Ok(root) = cgroup2_root() {
        reap(&root, |owner| !is_alive(owner));
    }
}

/// Removes every laboratory of this process: for a signal handler that cannot wait for values to be dropped.
pub fn remove_all() {
    if let Ok(root) = cgroup2_root() {
        reap(&root, |owner| owner == std::process::id());
    }
}

/// Says in words why a laboratory cannot be built here, or `None` where it can.
#[must_use]
pub fn missing() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some(
            "needs root: network namespaces, cgroups and BPF programs are made".to_owned(),
        );
    }
    if let Err(error) = cgroup2_root() {
        return Some(format!("{error:#}"));
    }
    if which::which("ip").is_err() {
        return Some("needs the program ip (Debian package iproute2)".to_owned());
    }
    None
}

/// Where cgroup v2 is mounted: `/sys/fs/cgroup` as a rule, `/sys/fs/cgroup/unified` on a hybrid hierarchy.
///
/// # Errors
/// When the mount table cannot be read or names no cgroup v2.
pub fn cgroup2_root() -> Result<PathBuf> {
    let table = fs::read_to_string("/proc/mounts").context("read /proc/mounts")?;
    let found = table.lines().find_map(|line| {
        let mut words = line.split(' ');
        let target = words.nth(1)?;
        (words.next()? == "cgroup2").then(|| PathBuf::from(target))
    });
    found.context("needs cgroup v2: no file system of type cgroup2 is mounted")
}

fn is_alive(pid: u32) -> bool {
    Path::new("/proc").join(pid.to_string()).exists()
}

/// Removes the laboratories whose owner `is_mine` accepts.
fn reap(root: &Path, is_mine: impl Fn(u32) -> bool) {
    let temp = std::env::temp_dir();
    let mut names: Vec<String> = [root, &temp].into_iter().flat_map(folder_names).collect();
    names.sort();
    names.dedup();
    for name in names {
        let owner = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split('-').next()?.parse().ok());
        if owner.is_some_and(&is_mine) {
            clear(&root.join(&name), &temp.join(&name));
        }
    }
}

fn folder_names(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect()
}

fn clear(cgroup: &Path, dir: &Path) {
    for result in [end_cgroup(cgroup), unmount_below(dir), remove_folder(dir)] {
        if let Err(error) = result {
            eprintln!("laboratory not wholly removed: {error:#}");
        }
    }
}

/// Kills what runs in `cgroup` and removes it with its children. A killed process leaves its cgroup a little later.
fn end_cgroup(cgroup: &Path) -> Result<()> {
    if !cgroup.exists() {
        return Ok(());
    }
    fs::write(cgroup.join("cgroup.kill"), "1")
        .with_context(|| format!("kill {}", cgroup.display()))?;
    let deadline = Instant::now() + Duration::from_secs(5);
    while let Err(error) = remove_cgroup(cgroup) {
        if Instant::now() > deadline {
            return Err(error).with_context(|| format!("remove {}", cgroup.display()));
        }
        thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// Removes a cgroup and those below it. Its files are the kernel's and vanish with it.
pub(super) fn remove_cgroup(cgroup: &Path) -> io::Result<()> {
    for entry in fs::read_dir(cgroup)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_cgroup(&entry.path())?;
        }
    }
    fs::remove_dir(cgroup)
}

/// Unmounts what is mounted below `dir`, the latest mount first: the agent mounts a bpffs where it finds none.
fn unmount_below(dir: &Path) -> Result<()> {
    for target in mounts_below(dir)?.iter().rev() {
        umount2(target, MntFlags::MNT_DETACH)
            .with_context(|| format!("unmount {}", target.display()))?;
    }
    Ok(())
}

/// The mount points at or below `dir`, in the order in which they were mounted.
///
/// # Errors
/// When the mount table cannot be read.
pub fn mounts_below(dir: &Path) -> Result<Vec<PathBuf>> {
    let table = fs::read_to_string("/proc/self/mountinfo").context("read /proc/self/mountinfo")?;
    let targets = table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(PathBuf::from);
    Ok(targets.filter(|target| target.starts_with(dir)).collect())
}

fn remove_folder(dir: &Path) -> Result<()> {
    if !mounts_below(dir)?.is_empty() {
        bail!("{} still holds a mount", dir.display());
    }
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}
