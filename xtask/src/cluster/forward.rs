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

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn both_directions_pass_until_both_have_ended() {
        let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let door = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = door.local_addr().unwrap();
        let _forward = Forward::start(door, server.local_addr().unwrap()).unwrap();
        let served = thread::spawn(move || {
            let (mut stream, _) = server.accept().unwrap();
            let mut question = String::new();
            stream.read_to_string(&mut question).unwrap();
            stream
                .write_all(question.to_uppercase().as_bytes())
                .unwrap();
        });

        let mut client = TcpStream::connect(address).unwrap();
        client.write_all(b"question").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();

        assert_eq!(answer, "QUESTION");
        served.join().unwrap();
    }

    #[test]
    fn a_refusing_target_ends_the_connection() {
        let nobody = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .unwrap()
            .local_addr()
            .unwrap();
        let door = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = door.local_addr().unwrap();
        let _forward = Forward::start(door, nobody).unwrap();
        let mut client = TcpStream::connect(address).unwrap();
        client
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
    }
}
