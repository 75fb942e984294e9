//! Agents die and come back all the time, while all machines pull.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nodes::{Puller, Registry, Way, await_ready, is_ready, metric};
use oci::Digest;
use testbed::{Blob, Cluster, ClusterSpec, Image, Launch, Layer, Machine, Process, with_cluster};

const MACHINES: usize = 10;
const IMAGES: u64 = 60;
/// Of two pieces.
const SIZE: u64 = 6 << 20;
/// So often another machine's agent is killed or started, and another image comes into use.
const BEAT: Duration = Duration::from_secs(1);
/// How often each machine pulls.
const PULL_EVERY: Duration = Duration::from_millis(300);

/// How long it goes on: `LARDER_CHURN_SECONDS`, or a minute.
fn duration() -> Result<Duration> {
    let text = std::env::var("LARDER_CHURN_SECONDS").unwrap_or_else(|_| "60".to_owned());
    Ok(Duration::from_secs(text.parse().with_context(|| format!("LARDER_CHURN_SECONDS={text}"))?))
}

/// A machine with its agent.
struct Member<'a> {
    machine: &'a Machine,
    agent: std::sync::Arc<Process>,
    /// How often it was killed.
    killed: AtomicU64,
}

impl<'a> Member<'a> {
    fn start(machine: &'a Machine, config: &str) -> Result<Member<'a>> {
        machine.write("/etc/larder/larder.toml", config)?;
        let launch = Launch::new(nodes::binary()).args(["node", "--log", "info"]);
        Ok(Member { machine, agent: machine.spawn("larder", launch)?, killed: AtomicU64::new(0) })
    }

    /// Kills the agent, or starts the one that was killed.
    fn turn(&self) -> Result<()> {
        if self.agent.is_running() {
            self.killed.fetch_add(1, Ordering::SeqCst);
            return self.agent.kill();
        }
        self.agent.start_again()
    }

    /// Pulls until `over`, now this of the images that are in use and now that.
    fn pull(&self, number: u64, images: &[Blob], began: Instant, over: &AtomicBool) -> Result<Pulls> {
        let puller = Puller::new(self.machine, "registry-1.docker.io");
        let mut pulls = Pulls::default();
        let mut dice = Dice(number);
        while !over.load(Ordering::Relaxed) {
            let used = (began.elapsed().as_secs() + 1).min(images.len() as u64);
            // Each that comes into use is wanted by all at once, and later now and then.
            let which = if dice.below(2) == 0 { used - 1 } else { dice.below(used) };
            let blob = &images[which as usize];
            let (killed, ready) = (self.killed.load(Ordering::SeqCst), is_ready(self.machine));
            let (bytes, way) = puller.blob("library/churn", &blob.digest, blob.size)?;
            let right = Digest::sha256(&bytes).to_string() == blob.digest;
            ensure!(right, "{}: wrong bytes of {}, by {way:?}", self.machine.name(), blob.digest);
            let undisturbed = ready && killed == self.killed.load(Ordering::SeqCst);
            match way {
                Way::Mirror => pulls.whole += 1,
                Way::Fallen if undisturbed => {
                    pulls.failed.push(format!(
                        "{} of {} after {:?}",
                        blob.digest,
                        self.machine.name(),
                        began.elapsed()
                    ));
                }
                Way::Fallen => pulls.fallen += 1,
            }
            std::thread::sleep(PULL_EVERY);
        }
        Ok(pulls)
    }
}

/// What became of the pulls of a machine.
#[derive(Debug, Default)]
struct Pulls {
    /// Those that larder served.
    whole: u64,
    /// Those whose agent was not there from their beginning to their end.
    fallen: u64,
    /// Those that an agent gave up that was there all the time.
    failed: Vec<String>,
}

/// The same numbers in each run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, most: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % most
    }
}

fn start<'a>(cluster: &'a Cluster, registry: &Registry) -> Result<Vec<Member<'a>>> {
    let authority = tempfile::tempdir()?;
    let machines: Vec<&Machine> = cluster.others().iter().map(testbed::Other::machine).collect();
    nodes::certify(authority.path(), machines.iter().map(|machine| machine.name()))?;
    let line = |machine: &&Machine| nodes::member(machine.name(), &machine.address().to_string(), "");
    let list: String = machines.iter().map(line).collect();
    let head = format!("[store]\nbudget = \"192MiB\"\n[node]\nhosts = false\nregistry = {:?}\n", registry.url());
    let start =
        |machine| Member::start(machine, &format!("{head}{}", nodes::peering(machine, authority.path(), &list)?));
    let members = machines.into_iter().map(start).collect::<Result<Vec<_>>>()?;
    members.iter().try_for_each(|member| await_ready(member.machine))?;
    Ok(members)
}

// P-10
#[test]
fn no_pull_fails_while_agents_die_and_come_back_all_the_time() -> Result<()> {
    let duration = duration()?;
    with_cluster(&ClusterSpec::new("churn").with_nodes([]), |cluster| {
        for number in 1..=MACHINES {
            cluster.add_machine(&format!("m{number}"))?;
        }
        let origin = cluster.origin("docker.io")?;
        let image = |number| Image::empty().seed(number).layer(Layer::random(SIZE));
        let pushed = (0..IMAGES).map(|number| origin.push(&format!("library/churn:{number}"), &image(number)));
        let images = pushed.map(|written| Ok(written?.layers.remove(0))).collect::<Result<Vec<Blob>>>()?;
        let registry = Registry::start(cluster.control().machine())?;
        let members = start(cluster, &registry)?;

        let (over, began) = (AtomicBool::new(false), Instant::now());
        let pulls = std::thread::scope(|scope| {
            let pulling = |(number, member)| {
                let member: &Member<'_> = member;
                let (images, over) = (&images, &over);
                scope.spawn(move || member.pull(number as u64, images, began, over))
            };
            let threads: Vec<_> = members.iter().enumerate().map(pulling).collect();
            let mut dice = Dice(42);
            let mut turned = Ok(());
            while began.elapsed() < duration && turned.is_ok() {
                turned = members[dice.below(MACHINES as u64) as usize].turn();
                std::thread::sleep(BEAT);
            }
            over.store(true, Ordering::Relaxed);
            let pulls: Vec<_> = threads.into_iter().map(|thread| thread.join().expect("no pull panics")).collect();
            turned.and(pulls.into_iter().collect::<Result<Vec<Pulls>>>())
        })?;

        let sum = |of: fn(&Pulls) -> u64| pulls.iter().map(of).sum::<u64>();
        let (whole, fallen) = (sum(|one| one.whole), sum(|one| one.fallen));
        let failed: Vec<&String> = pulls.iter().flat_map(|one| &one.failed).collect();
        let requests = cluster.origin("docker.io")?.requests()?;
        let larders = requests.iter().filter(|request| request.is_blob_get() && request.agent.starts_with("larder/"));
        let paths: Vec<&str> = larders.map(|request| request.path.as_str()).collect();
        let gets = |blob: &Blob| paths.iter().filter(|path| path.contains(&blob.digest)).count();
        let most = images.iter().map(gets).max().unwrap_or(0);
        let kills: u64 = members.iter().map(|member| member.killed.load(Ordering::SeqCst)).sum();
        println!(
            "{whole} pulls by larder, {fallen} past an agent that was not there, {kills} kills; at most {most} GETs of a blob"
        );
        ensure!(failed.is_empty(), "{} pulls failed: {failed:#?}", failed.len());
        // Half of the agents are dead at any time.
        ensure!(kills > 0 && 4 * whole > fallen, "larder served too few to tell anything");
        ensure!(most <= 2, "the origin was asked {most} times for a blob");
        let alive = members.iter().filter(|member| is_ready(member.machine));
        let shared =
            alive.map(|member| metric(member.machine, "larder_peer_received_bytes_total", &[("source", "peer")]));
        ensure!(shared.sum::<Result<f64>>()? > SIZE as f64, "nodes gave each other nothing");
        Ok(())
    })
}
