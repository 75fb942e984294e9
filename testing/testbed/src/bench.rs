//! How long a cluster takes to start and to end, and what it uses.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use testbed::{Cluster, ClusterSpec};

/// Starts and ends a cluster so many times. Fails where a round leaves something behind.
pub(crate) fn run(nodes: usize, rounds: usize) -> Result<()> {
    let before = Traces::now();
    let mut ups = Vec::new();
    let mut downs = Vec::new();
    let mut memory = Vec::new();
    for round in 1..=rounds {
        let started = Instant::now();
        let cluster = Cluster::start(&ClusterSpec::new("bench").nodes(nodes))?;
        ups.push(started.elapsed());
        memory.push(memory_of(&cluster)?);
        let ending = Instant::now();
        cluster.end()?;
        downs.push(ending.elapsed());
        eprintln!(
            "round {round}: up {:.1} s, down {:.1} s",
            ups[round - 1].as_secs_f32(),
            downs[round - 1].as_secs_f32()
        );
        let after = Traces::now();
        if after != before {
            bail!("round {round} has left something behind: {before:?} became {after:?}");
        }
    }
    println!("nodes             {nodes}");
    println!("rounds            {rounds}");
    println!("up, s             {}", spread(&mut ups));
    println!("down, s           {}", spread(&mut downs));
    println!("memory, MiB       {} (resident, all processes)", memory.iter().max().unwrap_or(&0) >> 20);
    Ok(())
}

fn spread(times: &mut [Duration]) -> String {
    times.sort_unstable();
    match &*times {
        [] => "none".to_owned(),
        [least, .., most] => {
            let median = times[times.len() / 2];
            format!(
                "median {:.1}, least {:.1}, most {:.1}",
                median.as_secs_f32(),
                least.as_secs_f32(),
                most.as_secs_f32()
            )
        }
        [only] => format!("{:.1}", only.as_secs_f32()),
    }
}

fn memory_of(cluster: &Cluster) -> Result<u64> {
    let machines = cluster.nodes().iter().map(testbed::Node::machine);
    let machines = machines.chain([cluster.control().machine(), cluster.internet()]);
    let mut sum = 0;
    for process in machines.flat_map(testbed::Machine::processes) {
        sum += process.memory()?;
    }
    Ok(sum)
}

/// What a cluster may leave behind in this machine.
#[derive(Debug, PartialEq, Eq)]
struct Traces {
    mounts: usize,
    interfaces: usize,
    cgroups: Vec<String>,
    processes: Vec<String>,
    files: Vec<String>,
}

impl Traces {
    fn now() -> Self {
        let named = |folder: &str, part: &str| {
            let entries = fs::read_dir(folder).into_iter().flatten().flatten();
            let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
            names.filter(|name| name.contains(part)).collect::<Vec<_>>()
        };
        let hierarchies = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
        let children = fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| {
            let text = fs::read_to_string(entry.path().join("stat")).ok()?;
            let parent = text.rsplit_once(')')?.1.split_whitespace().nth(1)?.to_owned();
            (parent == std::process::id().to_string()).then_some(text)
        });
        Self {
            mounts: fs::read_to_string("/proc/self/mountinfo").map_or(0, |text| text.lines().count()),
            interfaces: named("/sys/class/net", "testbed").len(),
            cgroups: hierarchies
                .flat_map(|entry| named(&entry.path().to_string_lossy(), "larder-testbed.bench"))
                .collect(),
            processes: children.collect(),
            files: named(&testbed::base().to_string_lossy(), "bench"),
        }
    }
}
