//! A door to the API server inside another network namespace: a listener made there, connections made here.
//!
//! A socket stays in the namespace it was made in, whichever thread uses it, so a listener is all that is needed there.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};

/// Passes every connection of a listener on to one address of this namespace, until it is dropped.
pub struct Forward {
    closed: Arc<AtomicBool>,
    acceptor: Option<JoinHandle<()>>,
}

impl Forward {
    /// Serves `listener` from a thread of its own.
    ///
    /// # Errors
    /// When the listener cannot be made non-blocking.
    pub fn start(listener: TcpListener, target: SocketAddr) -> Result<Self> {
        listener
            .set_nonblocking(true)
            .context("cannot set up the listener")?;
        let closed = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&closed);
        let acceptor = thread::spawn(move || {
            while !seen.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((client, _)) => drop(thread::spawn(move || relay(&client, target))),
                    Err(_) => thread::sleep(Duration::from_millis(10)),
                }
            }
        });
        Ok(Self {
            closed,
            acceptor: Some(acceptor),
        })
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        self.closed.store(true, Ordering::Relaxed);
        if let Some(acceptor) = self.acceptor.take()
            && acceptor.join().is_err()
        {
            eprintln!("a forwarding thread panicked");
        }
    }
}

/// Copies both ways until both sides have ended. A target that refuses ends the client's connection, which is what
/// the client of a dead server sees.
fn relay(client: &TcpStream, target: SocketAddr) {
    let Ok(server) = TcpStream::connect(target) else {
        return;
    };
    if client.set_nonblocking(false).is_err() {
        return;
    }
    thread::scope(|scope| {
        scope.spawn(|| pass(client, &server));
        pass(&server, client);
    });
}

fn pass(mut from: &TcpStream, mut to: &TcpStream) {
    // Either way of ending is the end of this direction; the other side learns it from the shutdown.
    drop(io::copy(&mut from, &mut to));
    drop(to.shutdown(Shutdown::Write));
    drop(from.shutdown(Shutdown::Read));
}
