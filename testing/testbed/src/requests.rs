//! What other processes ask of a running cluster, by a socket in its folder.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    sync::mpsc::Sender,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use serde::{Deserialize, Serialize};
use testbed::{Cluster, NodeSpec, Record, Runtime, base};

const SOCKET: &str = "requests.sock";

/// Whoever connects and says nothing is not listened to for longer.
const LIMIT: Duration = Duration::from_secs(5);

/// A node that is to join.
#[derive(Debug, Args, Serialize, Deserialize)]
pub struct Joining {
    /// Its name.
    node: String,
    /// Its zone.
    #[arg(long)]
    zone: Option<String>,
    /// A label, KEY=VALUE.
    #[arg(long = "label", value_name = "KEY=VALUE")]
    labels: Vec<String>,
    /// A taint with which it registers, KEY:EFFECT, such as larder.dev/warming:NoSchedule.
    #[arg(long = "taint", value_name = "KEY:EFFECT")]
    taints: Vec<String>,
    /// It runs containerd 1.7.
    #[arg(long)]
    containerd_17: bool,
}

impl Joining {
    fn spec(&self) -> Result<NodeSpec> {
        let mut spec = NodeSpec::new(&self.node);
        for label in &self.labels {
            let (key, value) = label.split_once('=').with_context(|| format!("{label:?} is not KEY=VALUE"))?;
            spec = spec.label(key, value);
        }
        for taint in &self.taints {
            let (key, effect) = taint.rsplit_once(':').with_context(|| format!("{taint:?} is not KEY:EFFECT"))?;
            spec = spec.taint(key, effect);
        }
        if let Some(zone) = &self.zone {
            spec = spec.zone(zone);
        }
        Ok(if self.containerd_17 { spec.runtime(Runtime::Containerd17) } else { spec })
    }
}

/// What is asked.
#[derive(Debug, Serialize, Deserialize)]
pub enum Request {
    /// That a node joins.
    Join(Joining),
    /// That a node is destroyed.
    Leave(String),
}

impl Request {
    /// Does it, and says what was done.
    fn carry_out(&self, cluster: &mut Cluster) -> Result<String> {
        match self {
            Self::Join(joining) => {
                let node = cluster.add_node(&joining.spec()?)?;
                Ok(format!("{} has joined as {}", node.name(), node.machine().address()))
            }
            Self::Leave(node) => {
                cluster.remove_node(node)?;
                Ok(format!("{node} is gone"))
            }
        }
    }
}

/// Something that was asked, and where the answer goes.
pub struct Asked {
    request: Request,
    stream: UnixStream,
}

impl Asked {
    /// Does what was asked, and answers.
    pub fn answer(mut self, cluster: &mut Cluster) {
        let answer: Result<String, String> = self.request.carry_out(cluster).map_err(|error| format!("{error:#}"));
        // Whoever asked may have gone.
        let _ = serde_json::to_vec(&answer).map(|text| self.stream.write_all(&text));
    }
}

/// Takes requests to a cluster for as long as its folder is there.
pub fn listen<T: From<Asked> + Send + 'static>(cluster: &Cluster, asked: Sender<T>) -> Result<()> {
    let path = cluster.dir().join(SOCKET);
    let listener = UnixListener::bind(&path).with_context(|| format!("cannot listen at {}", path.display()))?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // What cannot be understood is from nobody who waits for an answer.
            let Ok(one) = read(stream) else { continue };
            if asked.send(one.into()).is_err() {
                return;
            }
        }
    });
    Ok(())
}

fn read(stream: UnixStream) -> Result<Asked> {
    stream.set_read_timeout(Some(LIMIT))?;
    let mut line = String::new();
    BufReader::new(&stream).read_line(&mut line)?;
    Ok(Asked { request: serde_json::from_str(&line)?, stream })
}

/// Asks the cluster of that name, and prints what it did.
pub fn ask(name: &str, request: &Request) -> Result<()> {
    Record::read(name)?;
    let path = base().join(name).join(SOCKET);
    let stream = UnixStream::connect(&path);
    let mut stream =
        stream.with_context(|| format!("{name} was not started by `testbed up`: no {}", path.display()))?;
    stream.write_all(format!("{}\n", serde_json::to_string(request)?).as_bytes())?;
    let answer: Result<String, String> =
        serde_json::from_reader(stream).with_context(|| format!("{name} has ended meanwhile"))?;
    match answer {
        Ok(done) => println!("{done}"),
        Err(why) => bail!("{why}"),
    }
    Ok(())
}

/// Makes a folder of the programs by which people work with a cluster, and gives what a shell needs to find them and it.
pub fn environment(name: &str, record: &Record, programs: &[(&str, &Path)]) -> Result<String> {
    let folder = base().join(name).join("bin");
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    for (program, path) in programs {
        let link = folder.join(program);
        let _ = fs::remove_file(&link);
        std::os::unix::fs::symlink(path, &link).with_context(|| format!("cannot create {}", link.display()))?;
    }
    Ok(format!(
        "export KUBECONFIG='{}' LARDER_TESTBED_NAME='{name}' PATH='{}':\"$PATH\"\n",
        record.kubeconfig.display(),
        folder.display(),
    ))
}
