//! Nothing is left behind, however a cluster ends.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result};
use testbed::{Cluster, ClusterSpec, Image, Layer, NodeSpec, Record, base, is_running, wait_for};

const PATIENCE: Duration = Duration::from_secs(120);

#[test]
fn a_killed_run_is_cleared_away_by_the_next() -> Result<()> {
    const NAME: &str = "killed";
    let mut run = Run::up(NAME)?;
    let record = Record::read(NAME)?;
    assert!(!cgroups(NAME).is_empty());
    run.0.kill()?;
    run.0.wait()?;
    wait_for("every machine is gone", PATIENCE, || {
        let gone = |init: i32| !Path::new("/proc").join(init.to_string()).exists();
        Ok(record.machines.iter().all(|machine| gone(machine.init)).then_some(()))
    })?;
    // Whoever starts a cluster takes the locks of all for a moment, to see whether anybody has them.
    wait_for("nobody has the name", PATIENCE, || Ok((!is_running(NAME)?).then_some(())))?;

    let cluster = Cluster::start(&ClusterSpec::new(NAME))?;
    cluster.kubectl().run(&["get", "nodes"])?;
    cluster.end()?;
    assert_nothing_of(NAME);
    Ok(())
}

#[test]
fn down_ends_what_another_process_started() -> Result<()> {
    const NAME: &str = "another";
    let mut run = Run::up(NAME)?;
    let again = Cluster::start(&ClusterSpec::new(NAME)).map(drop);
    assert!(format!("{:#}", again.unwrap_err()).contains("testbed down --name"), "a name is taken only once");
    let status = testbed(NAME, &["down"]).status()?;
    assert!(status.success());
    assert!(run.0.wait()?.success(), "`up` ends in order");
    assert_nothing_of(NAME);
    Ok(())
}

#[test]
fn two_clusters_run_side_by_side() -> Result<()> {
    let clusters = ["left", "right"].map(|name| Cluster::start(&ClusterSpec::new(name)));
    let [left, right] = clusters;
    let (left, right) = (left?, right?);
    for (cluster, seed) in [(&left, 1), (&right, 2)] {
        let image = Image::new().layer(Layer::random(1 << 20)).seed(seed);
        let digest = cluster.origin("docker.io")?.push("library/app:1", &image)?.digest;
        cluster.nodes()[0].crictl(&["pull", "docker.io/library/app:1"])?;
        assert!(cluster.nodes()[0].ctr(&["images", "list"])?.contains(&digest), "each has an internet of its own");
    }
    left.end()?;
    assert_nothing_of("left");
    assert!(right.kubectl().run(&["get", "nodes"])?.contains("node-1"), "one does not take the other along");
    right.end()?;
    assert_nothing_of("right");
    Ok(())
}

#[test]
fn a_failed_start_leaves_its_logs_and_says_why() -> Result<()> {
    const NAME: &str = "failing";
    // This machine may have either kind of cgroups, but no kubelet accepts a negative number of pods.
    let node = NodeSpec::new("node-1").kubelet("maxPods", -1);
    let error = Cluster::start(&ClusterSpec::new(NAME).with_nodes([node])).map(drop).unwrap_err();
    assert!(format!("{error:#}").contains("maxPods"), "{error:#}");
    assert!(cgroups(NAME).is_empty());
    let folder = base().join(NAME);
    let left: Vec<_> = fs::read_dir(&folder)?.flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(left, ["logs"]);
    assert!(folder.join("logs/node-1/kubelet.log").exists());
    fs::remove_dir_all(folder)?;
    Ok(())
}

/// `testbed up` in a process of its own, which is killed where a test ends early. Its output stays open, since it prints more than is read.
struct Run(Child, BufReader<ChildStdout>);

impl Run {
    fn up(name: &str) -> Result<Self> {
        let mut child = testbed(name, &["up"]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let output = child.stdout.take().context("it was asked for")?;
        let mut run = Self(child, BufReader::new(output));
        let mut line = String::new();
        run.1.read_line(&mut line)?;
        assert!(line.contains("KUBECONFIG"), "{line}");
        Ok(run)
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn testbed(name: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_testbed"));
    command.args(arguments).args(["--name", name]);
    command
}

fn assert_nothing_of(name: &str) {
    assert_eq!(cgroups(name), Vec::<String>::new());
    assert!(!base().join(name).exists());
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    assert!(!mounts.contains(&format!("larder-testbed/{name}/")), "{mounts}");
}

fn cgroups(name: &str) -> Vec<String> {
    let hierarchies = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten().map(|entry| entry.path());
    let groups = hierarchies.chain(["/sys/fs/cgroup".into()]).filter_map(|path| fs::read_dir(path).ok());
    let names = groups.flatten().flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|group| group.contains(&format!("testbed.{name}."))).collect()
}
