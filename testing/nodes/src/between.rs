use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;
use testbed::{Cluster, Machine};

use crate::account::write_kubeconfig;

/// How the API server is for those who come by a [`Between`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// As it is.
    Well,
    /// It takes so long before each part of what it says.
    Slow(Duration),
    /// It answers 429.
    TooMany,
    /// Whoever connects is hung up on.
    Away,
}

/// When somebody is taken to be dead who writes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Death {
    /// What it writes does not reach the API server.
    Before,
    /// It is written, and whoever wrote it does not hear so.
    After,
}

/// What has become of whoever was to die.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// It has not come to that write.
    Lives,
    /// Its last write is on its way.
    Dies,
    /// Nothing more of it reaches the API server.
    IsDead,
}

/// Stands between larder and the API server, and says who larder is: the administrator.
pub struct Between {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    kubectl: Child,
}

struct State {
    mode: Mode,
    open: Vec<TcpStream>,
    refused: u64,
    /// How many writes are still let through, and what becomes of the next.
    death: Option<(usize, Death)>,
    fate: Fate,
}

impl Between {
    /// Starts it on the machine `internet`.
    ///
    /// # Errors
    /// kubectl does not start.
    pub fn start(cluster: &Cluster) -> Result<Between> {
        let mut command = cluster.kubectl().command();
        command.args(["proxy", "--address=127.0.0.1", "--port=0", "--accept-hosts=.*"]);
        let mut kubectl = command.stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        BufReader::new(kubectl.stdout.take().context("it was asked for")?).read_line(&mut line)?;
        let server: SocketAddr = line.rsplit(' ').next().unwrap_or_default().trim().parse().context(line.clone())?;
        let machine = cluster.internet();
        let listener = machine.in_network(|| TcpListener::bind((machine.address(), 0)))??;
        let address = listener.local_addr()?;
        let state = State { mode: Mode::Well, open: Vec::new(), refused: 0, death: None, fate: Fate::Lives };
        let between = Between { address, state: Arc::new(Mutex::new(state)), kubectl };
        let state = between.state.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(std::result::Result::ok) {
                let state = state.clone();
                std::thread::spawn(move || {
                    // Whoever breaks off has broken off.
                    let _ = serve(client, server, &state);
                });
            }
        });
        Ok(between)
    }

    /// Lets who is on a machine go this way.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn lead(&self, machine: &Machine, kubeconfig: &str) -> Result<()> {
        let server = json!({"server": format!("http://{}", self.address)});
        write_kubeconfig(machine, kubeconfig, &server, &json!({}))
    }

    /// From now on it is so, also for who is connected, and nobody dies any more.
    pub fn turn(&self, mode: Mode) {
        let mut state = lock(&self.state);
        (state.death, state.fate) = (None, Fate::Lives);
        turn(&mut state, mode);
    }

    /// With its next write but `spared` (of anything but Leases) it is as if whoever writes had died: from then on the API server is away for all.
    pub fn die_at(&self, spared: usize, death: Death) {
        lock(&self.state).death = Some((spared, death));
    }

    /// What has become of that since.
    #[must_use]
    pub fn fate(&self) -> Fate {
        lock(&self.state).fate
    }

    /// How many requests or connections have been refused.
    #[must_use]
    pub fn refused(&self) -> u64 {
        lock(&self.state).refused
    }
}

impl Drop for Between {
    fn drop(&mut self) {
        self.turn(Mode::Away);
        // It may have ended by itself.
        let _ = self.kubectl.kill();
        let _ = self.kubectl.wait();
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn turn(state: &mut State, mode: Mode) {
    state.mode = mode;
    for stream in state.open.drain(..) {
        // It may have ended by itself.
        let _ = stream.shutdown(Shutdown::Both);
    }
}

fn end(state: &mut State) {
    state.fate = Fate::IsDead;
    turn(state, Mode::Away);
}

fn serve(client: TcpStream, server: SocketAddr, state: &Arc<Mutex<State>>) -> std::io::Result<()> {
    let upstream = TcpStream::connect(server)?;
    let delay = {
        let mut state = lock(state);
        match state.mode {
            Mode::Well | Mode::Slow(_) => state.open.extend([client.try_clone()?, upstream.try_clone()?]),
            Mode::TooMany | Mode::Away => state.refused += 1,
        }
        match state.mode {
            Mode::Well => Duration::ZERO,
            Mode::Slow(delay) => delay,
            Mode::Away => return client.shutdown(Shutdown::Both),
            Mode::TooMany => {
                drop(state);
                return refuse(client);
            }
        }
    };
    // Whether its last write is one that nobody hears of.
    let is_dying = Arc::new(AtomicBool::new(false));
    let (asking, asked) = (client.try_clone()?, upstream.try_clone()?);
    let (of_asking, dies) = (state.clone(), is_dying.clone());
    let there = std::thread::spawn(move || pass(asking, asked, |part| is_let_through(part, &of_asking, &dies)));
    pass(upstream, client, |_| {
        std::thread::sleep(delay);
        if is_dying.load(Ordering::Relaxed) {
            end(&mut lock(state));
        }
        !is_dying.load(Ordering::Relaxed)
    });
    // Both directions end together.
    there.join().map_err(|_| std::io::Error::other("it panicked"))
}

/// Passes on what comes, until that ends or a part is to be kept back.
fn pass(mut from: TcpStream, mut to: TcpStream, mut is_let_through: impl FnMut(&[u8]) -> bool) {
    let mut buffer = [0; 16 << 10];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        if !is_let_through(&buffer[..count]) || to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    // The other side may have gone before.
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}

fn is_let_through(part: &[u8], state: &Mutex<State>, is_dying: &AtomicBool) -> bool {
    if !is_write(part) {
        return true;
    }
    let mut state = lock(state);
    match state.death.take() {
        None => true,
        Some((0, Death::Before)) => {
            end(&mut state);
            false
        }
        Some((0, Death::After)) => {
            is_dying.store(true, Ordering::Relaxed);
            state.fate = Fate::Dies;
            true
        }
        Some((spared, death)) => {
            state.death = Some((spared - 1, death));
            true
        }
    }
}

/// Whether it is the beginning of a request that changes something. A client waits for an answer before it asks again, so that each begins a part.
fn is_write(part: &[u8]) -> bool {
    let line = part.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let changes = ["POST /", "PUT /", "PATCH /", "DELETE /"].iter().any(|start| line.starts_with(start.as_bytes()));
    changes && !line.windows(8).any(|window| window == b"/leases/" || window == b"/leases?")
}

fn refuse(mut client: TcpStream) -> std::io::Result<()> {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") && client.read(&mut byte)? == 1 {
        head.push(byte[0]);
    }
    let body = r#"{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"TooManyRequests","code":429,"message":"wait"}"#;
    write!(
        client,
        "HTTP/1.1 429 Too Many Requests\r\nRetry-After: 1\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )?;
    client.shutdown(Shutdown::Write)?;
    // What of the request is still on its way would be answered with a reset, by which the answer is lost.
    client.set_read_timeout(Some(Duration::from_secs(1)))?;
    std::io::copy(&mut client, &mut std::io::sink()).map(drop)
}
