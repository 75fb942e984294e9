use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, bail};
use oci::Digest;
use programs::{Paths, Program};
use tempfile::TempDir;

use crate::command::run;
use crate::volume::need_root;
use crate::wait::wait_for_some;

/// A version of containerd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// The 1.7 line.
    V1_7,
    /// The 2.4 line.
    V2_4,
}

impl Release {
    fn programs(self) -> [Program; 4] {
        let [daemon, shim] = match self {
            Release::V1_7 => [Program::Containerd17, Program::Shim17],
            Release::V2_4 => [Program::Containerd, Program::Shim],
        };
        [daemon, shim, Program::Ctr, Program::Crictl]
    }
}

/// A containerd with nothing in it and everything in the usual places: `/etc/containerd`, `/run/containerd/containerd.sock`,
/// `/var/lib/containerd`. These are its own, as are its processes; the network is this machine's. Ends when dropped, with all
/// containers.
pub struct Containerd {
    /// What entered the namespaces; it waits for their first process.
    outer: Child,
    /// The first process, as it is known outside. The kernel ends all others with it.
    first: rustix::process::Pid,
    dir: TempDir,
    path: String,
}

/// Runs as the first process. Overlays cannot be stacked, so the content, whose snapshots are overlays, has a plain folder.
const SETUP: &str = r#"set -e
mount -t overlay overlay -o "lowerdir=/etc,upperdir=$DIR/etc,workdir=$DIR/etc.work" /etc
mount -t overlay overlay -o "lowerdir=/var,upperdir=$DIR/var,workdir=$DIR/var.work" /var
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /var/lib/containerd
mount --bind "$DIR/content" /var/lib/containerd
containerd &
# A container's processes become children of this one when their shim has ended.
while wait; do :; done
"#;

/// Registries that nobody has told it about must stay out of reach, however a test goes wrong.
const HOSTS: &str = "127.0.0.1 localhost registry.example larder.example registry-1.docker.io\n";

impl Containerd {
    /// Starts one with these files, by their path below `/etc`, and waits until it answers.
    ///
    /// # Errors
    /// It cannot be had, or does not come up.
    ///
    /// # Panics
    /// If it does not run as root.
    pub fn start(release: Release, files: &[(&str, &str)]) -> anyhow::Result<Containerd> {
        need_root();
        programs::debian(&["runc"])?;
        let paths = programs::ensure(&release.programs())?;
        let dir = tempfile::Builder::new().prefix("larder-containerd-").tempdir()?;
        for name in ["etc", "etc.work", "var", "var.work", "content"] {
            fs::create_dir(dir.path().join(name))?;
        }
        for (path, text) in [("hosts", HOSTS), ("resolv.conf", "nameserver 127.0.0.1\n")].iter().chain(files) {
            let path = dir.path().join("etc").join(path);
            fs::create_dir_all(path.parent().context("it is below etc")?)?;
            fs::write(path, text)?;
        }
        let path = search_path(&release.programs(), &paths)?;
        let log = fs::File::create(dir.path().join("log"))?;
        // It ends with this thread too, should this process be killed.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]);
        command.args(["sh", "-c", SETUP]).env("DIR", dir.path()).env("PATH", &path).current_dir("/");
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let outer = command.spawn().context("cannot start containerd")?;
        let first = wait_for_some("the first process of containerd", || only_child(outer.id()));
        let mut containerd = Containerd { outer, first, dir, path };
        wait_for_some("containerd", || {
            let ended = !matches!(containerd.outer.try_wait(), Ok(None));
            (ended || containerd.run("ctr plugins ls").is_ok()).then_some(())
        });
        if let Some(status) = containerd.outer.try_wait()? {
            bail!("containerd: {status}\n{}", containerd.log());
        }
        Ok(containerd)
    }

    /// Runs a command line where it runs, and gives what that printed.
    ///
    /// # Errors
    /// It fails or takes longer than two minutes.
    pub fn run(&self, line: &str) -> anyhow::Result<String> {
        let target = self.first.as_raw_nonzero().to_string();
        let mut command = Command::new("timeout");
        command.args(["120", "nsenter", "--target", &target, "--mount", "--pid", "--wd=/", "sh", "-c", line]);
        run(command.env("PATH", &self.path)).with_context(|| self.log())
    }

    /// Every blob that it has, each held against its name.
    ///
    /// # Errors
    /// A blob has other bytes than its name says, or cannot be read.
    pub fn blobs(&self) -> anyhow::Result<BTreeSet<String>> {
        blobs_in(&self.dir.path().join("content/io.containerd.content.v1.content/blobs/sha256"))
    }

    /// All that it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let _ = rustix::process::kill_process(self.first, rustix::process::Signal::KILL);
        let _ = self.outer.wait();
    }
}

/// The digests of the files in a folder, each of which must be named after its bytes; none if there is no such folder.
fn blobs_in(folder: &Path) -> anyhow::Result<BTreeSet<String>> {
    let mut digests = BTreeSet::new();
    if !folder.exists() {
        return Ok(digests);
    }
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let digest = Digest::sha256(&fs::read(&path)?).to_string();
        if digest.strip_prefix("sha256:") != path.file_name().and_then(|name| name.to_str()) {
            bail!("{} has the bytes of {digest}", path.display());
        }
        digests.insert(digest);
    }
    Ok(digests)
}

/// The folders of these programs in front of the usual ones: containerd looks for its shim there.
fn search_path(programs: &[Program], paths: &Paths) -> anyhow::Result<String> {
    let mut folders: Vec<PathBuf> = Vec::new();
    for program in programs {
        folders.push(paths.get(*program).parent().context("programs have folders")?.to_owned());
    }
    folders.extend(["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(PathBuf::from));
    std::env::join_paths(folders)?.into_string().ok().context("folders are text")
}

/// The child of a process that has no more than one.
fn only_child(of: u32) -> Option<rustix::process::Pid> {
    let text = fs::read_to_string(format!("/proc/{of}/task/{of}/children")).ok()?;
    rustix::process::Pid::from_raw(text.split_whitespace().next()?.parse().ok()?)
}
