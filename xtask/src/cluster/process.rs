//! One program of the control plane: started, stopped, paused and resumed, with its output in a file.
//!
//! The kernel ends it when this process ends in whatever way: a test that is killed leaves nothing behind.

use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{self, Sender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long a program may take to end by itself after SIGTERM.
const GRACE: Duration = Duration::from_secs(10);

/// A running program. Dropping it ends the program.
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` as a process group of its own, output appended to `log`.
    ///
    /// # Errors
    /// When the log cannot be opened or the program cannot be started.
    pub fn start(name: &str, mut command: Command, log: &Path) -> Result<Self> {
        let output = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("cannot open the log {}", log.display()))?;
        let errors = output.try_clone().context("cannot share the log")?;
        command
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .process_group(0);
        let child = spawn_bound_to_us(command).with_context(|| format!("cannot start {name}"))?;
        Ok(Self {
            name: name.to_owned(),
            child,
            log: log.to_owned(),
        })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// Why it has ended, if it has.
    ///
    /// # Errors
    /// When the kernel does not know the process, which would be a second wait for it.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child
            .try_wait()
            .with_context(|| format!("cannot ask for the state of {}", self.name))
    }

    /// Asks it to end (SIGTERM, after waking it if it was paused) and waits; who does not end in ten seconds is killed.
    ///
    /// # Errors
    /// When it cannot be signalled or waited for.
    pub fn stop(mut self) -> Result<()> {
        self.signal(Signal::SIGTERM)?;
        self.signal(Signal::SIGCONT)?;
        let until = Instant::now() + GRACE;
        while self.ended()?.is_none() {
            if Instant::now() > until {
                return self.end_now();
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Stops its clock: connections stay open and nothing answers, as with a hung machine.
    ///
    /// # Errors
    /// When it has ended.
    pub fn pause(&self) -> Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    /// Lets it go on after [`Process::pause`].
    ///
    /// # Errors
    /// When it has ended.
    pub fn resume(&self) -> Result<()> {
        self.signal(Signal::SIGCONT)
    }

    /// The last lines it wrote, for the message of a failed test.
    #[must_use]
    pub fn tail(&self, lines: usize) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    /// Polls `ready` every 50 ms until it holds.
    ///
    /// # Errors
    /// When the program ends first or `limit` passes; the message carries the end of its log.
    pub fn wait_until(&mut self, limit: Duration, mut ready: impl FnMut() -> bool) -> Result<()> {
        let until = Instant::now() + limit;
        while !ready() {
            if let Some(status) = self.ended()? {
                bail!(
                    "{} ended with {status}; its last lines:\n{}",
                    self.name,
                    self.tail(30)
                );
            }
            if Instant::now() > until {
                bail!(
                    "{} is not ready after {} s; its last lines:\n{}",
                    self.name,
                    limit.as_secs(),
                    self.tail(30)
                );
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        kill(self.pid(), signal).with_context(|| format!("cannot send {signal} to {}", self.name))
    }

    fn end_now(&mut self) -> Result<()> {
        self.child
            .kill()
            .with_context(|| format!("cannot kill {}", self.name))?;
        self.child
            .wait()
            .with_context(|| format!("cannot wait for {}", self.name))?;
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Err(error) = self.end_now() {
            eprintln!("{error:#}");
        }
    }
}

/// Starts `command` so that the kernel kills it when this process dies.
///
/// `PR_SET_PDEATHSIG` fires at the death of the *thread* that forked, and threads of a test runner come and go: all
/// children are forked by one thread that never ends.
fn spawn_bound_to_us(mut command: Command) -> io::Result<Child> {
    type Order = (Command, Sender<io::Result<Child>>);
    static SPAWNER: OnceLock<Sender<Order>> = OnceLock::new();

    // SAFETY: between fork and exec the child makes one system call and touches no memory of ours.
    unsafe {
        command
            .pre_exec(|| nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).map_err(io::Error::from));
    }
    let spawner = SPAWNER.get_or_init(|| {
        let (orders, inbox) = mpsc::channel::<Order>();
        thread::spawn(move || {
            for (mut command, answer) in inbox {
                // Who ordered may have gone meanwhile: the child is dropped, and ends with this process.
                drop(answer.send(command.spawn()));
            }
        });
        orders
    });
    let (answer, child) = mpsc::channel();
    let gone = |_| io::Error::other("the thread that starts processes has ended");
    spawner
        .send((command, answer))
        .map_err(|_| io::Error::other("the thread that starts processes has ended"))?;
    child.recv().map_err(gone)?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, log: &Path) -> Process {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Process::start("a script", command, log).unwrap()
    }

    #[test]
    fn a_program_that_ends_early_is_reported_with_its_last_lines() {
        let log = tempfile::NamedTempFile::new().unwrap();
        let mut process = shell("echo no such port; exit 3", log.path());
        let error = process
            .wait_until(Duration::from_secs(10), || false)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("exit status: 3") && error.ends_with("no such port"),
            "{error}"
        );
    }

    #[test]
    fn a_paused_program_can_be_stopped() {
        let log = tempfile::NamedTempFile::new().unwrap();
        let process = shell(
            "trap 'echo told; exit' TERM; echo ready; while :; do sleep 0.01; done",
            log.path(),
        );
        while process.tail(1) != "ready" {
            thread::sleep(Duration::from_millis(5));
        }
        process.pause().unwrap();
        process.stop().unwrap();
        assert_eq!(fs::read_to_string(log.path()).unwrap(), "ready\ntold\n");
    }

    #[test]
    fn a_dropped_program_is_gone() {
        let log = tempfile::NamedTempFile::new().unwrap();
        let process = shell("sleep 60", log.path());
        let pid = process.pid();
        drop(process);
        assert_eq!(kill(pid, None), Err(nix::errno::Errno::ESRCH));
    }

    #[test]
    fn a_program_outlives_the_thread_that_started_it() {
        let log = tempfile::NamedTempFile::new().unwrap();
        let path = log.path().to_owned();
        let mut process = thread::spawn(move || shell("sleep 60", &path))
            .join()
            .unwrap();
        thread::sleep(Duration::from_millis(50));
        assert_eq!(process.ended().unwrap(), None);
    }
}
