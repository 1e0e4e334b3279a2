//! A cable without link headers: two tun devices, and threads that carry packets between them.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use xtask::lab::Netns;

/// As long as it lives, what one end sends the other receives.
pub struct Cable {
    is_over: Arc<AtomicBool>,
    carriers: Vec<JoinHandle<()>>,
}

impl Cable {
    /// Makes a device `name` in both namespaces.
    pub fn new(ends: [&Netns; 2], name: &str) -> Result<Self> {
        let [left, right] = ends.map(|netns| netns.within(|| open(name)));
        let (left, right) = (left?, right?);
        let pairs = [(left.try_clone()?, right.try_clone()?), (right, left)];
        let is_over = Arc::new(AtomicBool::new(false));
        let carriers = pairs.map(|(from, to)| {
            let is_over = Arc::clone(&is_over);
            thread::spawn(move || carry(from, to, &is_over))
        });
        Ok(Self {
            is_over,
            carriers: carriers.into(),
        })
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        for carrier in self.carriers.drain(..) {
            carrier.join().ok();
        }
    }
}

fn open(name: &str) -> Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/net/tun")
        .context("open /dev/net/tun")?;
    // SAFETY: every bit pattern is valid for this plain struct of the kernel's.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = libc::c_char::try_from(from)?;
    }
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(libc::IFF_TUN | libc::IFF_NO_PI)?;
    // SAFETY: an open descriptor and a struct of the kind that the request takes.
    let done = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF as _, &raw const request) };
    if done != 0 {
        return Err(io::Error::last_os_error()).context("make a tun device");
    }
    Ok(file)
}

fn carry(mut from: File, mut to: File, is_over: &AtomicBool) {
    let mut packet = vec![0; 65_536];
    while !is_over.load(Ordering::Relaxed) {
        let mut wanted = [PollFd::new(from.as_fd(), PollFlags::POLLIN)];
        if poll(&mut wanted, PollTimeout::from(50_u8)).unwrap_or(0) == 0 {
            continue;
        }
        // A device that is down, or gone with its namespace, loses packets as a cable does.
        if let Ok(length) = from.read(&mut packet) {
            to.write_all(&packet[..length]).ok();
        }
    }
}
