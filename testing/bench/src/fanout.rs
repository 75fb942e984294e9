//! Nodes that want the same image at once: `larder node` on machines with capped links, beside direct transfers.

use std::fs;
use std::net::{Ipv4Addr, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use nodes::{await_ready, member, metric};
use programs::Program;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use serde::Serialize;
use testbed::{Cluster, ClusterSpec, Image, Launch, Layer, Machine, Other, Rate, Written, wait_for, with_cluster};

use crate::client::{Client, Taken};
use crate::figure::spread;
use crate::{machine, plot, report, server, timeline};

mod mirror;

use mirror::Mirror;

/// A transfer that takes so long hangs.
const HANGS: Duration = Duration::from_secs(120);

#[derive(Args)]
pub(crate) struct Arguments {
    /// How often each figure is measured; what is compared takes turns.
    #[arg(long, default_value_t = 5)]
    repetitions: usize,
    /// Only these; with them, docs/benchmarks.md is left alone.
    #[arg(long, value_name = "NAME")]
    only: Vec<Name>,
    /// How many nodes want the image at once.
    #[arg(long, value_delimiter = ',', default_values_t = [4, 8, 16, 32])]
    nodes: Vec<usize>,
    /// The size of the image, in MB.
    #[arg(long, default_value_t = 500)]
    size: u64,
    /// The rate of each link in both directions, the origin's included, in Mbit/s.
    #[arg(long, default_value_t = 100)]
    rate: u64,
    /// Up to how many nodes pull directly from the origin for comparison, once each: it takes so many transfers.
    #[arg(long, default_value_t = 8)]
    direct: usize,
    /// Up to how many nodes pull through distribution for comparison: the one mirror's link carries each of their transfers.
    #[arg(long, default_value_t = 8)]
    mirrored: usize,
    /// Tell meanwhile, second by second, what goes over the links: the nodes are asked for it, which costs them a little.
    #[arg(long)]
    timeline: bool,
    /// The binary to measure; the release build of this workspace, made first, if not given.
    #[arg(long, value_name = "PATH")]
    larder: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Name {
    /// All nodes of one zone, an image of one layer and one of four.
    Fanout,
    /// distribution as the only mirror of all nodes, beside larder: see `--mirrored`.
    Distribution,
    /// Two zones, between which goes what one link carries.
    Zones,
    /// A home is killed at half of a pull.
    Killed,
    /// Resident memory.
    Memory,
}

impl Name {
    const ALL: [Name; 5] = [Name::Fanout, Name::Distribution, Name::Zones, Name::Killed, Name::Memory];
}

/// What is measured of one pull by many nodes.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Pull {
    pub(crate) what: &'static str,
    pub(crate) nodes: usize,
    pub(crate) layers: usize,
    /// Of one direct transfer, right before.
    pub(crate) ideal_s: f64,
    pub(crate) fastest_s: f64,
    pub(crate) slowest_s: f64,
    /// In images.
    pub(crate) origin: f64,
    /// What the node that sent most has sent, in images, headers included.
    pub(crate) upload: f64,
    /// What came into each zone from others, in images.
    pub(crate) cross_zone: Option<f64>,
    /// The share of the processors that had nothing to do.
    pub(crate) idle: f64,
}

/// Where it is measured.
struct Lab<'a> {
    cluster: &'a Cluster,
    certificates: PathBuf,
    larder: PathBuf,
    timeline: bool,
    /// Stores are numbered, so that each pull finds an empty one.
    run: usize,
}

pub(crate) fn run(arguments: Arguments) -> Result<()> {
    let larder = server::larder(arguments.larder.clone())?;
    let most = arguments.nodes.iter().copied().max().unwrap_or(4).max(8);
    let spec = ClusterSpec::new("fanout").with_nodes([]).programs(&[Program::Registry]);
    let (mut pulls, mut rows) = (Vec::new(), Vec::new());
    with_cluster(&spec, |cluster| {
        for number in 1..=most {
            cluster.add_machine(&format!("m{number}"))?;
        }
        // After the nodes, which are the first machines.
        cluster.add_machine(mirror::MACHINE)?;
        let certificates = crate::folder().join("fanout-certificates");
        let _ = fs::remove_dir_all(&certificates);
        fs::create_dir_all(&certificates)?;
        nodes::certify(&certificates, cluster.others().iter().map(|other| other.machine().name()))?;
        let origin = cluster.origin("docker.io")?;
        let size = arguments.size * 1_000_000;
        let one = origin.push("library/one:1", &Image::empty().layer(Layer::random(size)))?;
        let four = (0..4_u64).fold(Image::empty(), |image, layer| image.layer(Layer::random(size / 4 + layer)));
        let four = origin.push("library/four:1", &four)?;
        let rate = Rate::mbit(arguments.rate);
        cluster.internet_link().cap(rate)?;
        cluster.others().iter().try_for_each(|other| other.link().cap(rate))?;
        let mut lab = Lab { cluster, certificates, larder, timeline: arguments.timeline, run: 0 };
        let wanted = |name| arguments.only.is_empty() || arguments.only.contains(&name);
        for repetition in 1..=arguments.repetitions {
            for name in Name::ALL.into_iter().filter(|name| wanted(*name)) {
                eprintln!("{name:?}, repetition {repetition}");
                match name {
                    Name::Fanout => lab.fanout(&arguments, &one, &four, repetition, &mut pulls)?,
                    Name::Distribution => lab.distribution(&arguments, &one, repetition, &mut pulls)?,
                    Name::Zones => pulls.push(lab.zones(&one, rate)?),
                    Name::Killed => rows.extend(lab.killed(&one)?),
                    Name::Memory => rows.extend(lab.memory(&one)?),
                }
            }
        }
        Ok(())
    })?;
    let text = table(&pulls, &rows, &arguments);
    println!("{text}");
    eprintln!("raw: {}", report::keep_raw("fanout", &(&pulls, &rows))?.display());
    if arguments.only.is_empty() {
        report::into_docs("fanout", &text)?;
        fs::write(crate::workspace().join("docs/fanout.svg"), plot::fanout(&pulls))?;
    }
    Ok(())
}

/// One value of a figure that is no pull by many.
#[derive(Clone, Debug, Serialize)]
struct Row {
    what: &'static str,
    unit: &'static str,
    limit: f64,
    value: f64,
}

impl Lab<'_> {
    fn fanout(
        &mut self,
        arguments: &Arguments,
        one: &Written,
        four: &Written,
        repetition: usize,
        pulls: &mut Vec<Pull>,
    ) -> Result<()> {
        let ideal = self.direct(1, one)?;
        if repetition == 1 {
            pulls.push(Pull { what: "direct", ..ideal.clone() });
            for &nodes in arguments.nodes.iter().filter(|nodes| **nodes <= arguments.direct) {
                pulls.push(self.direct(nodes, one)?);
            }
        }
        for (image, name) in [(one, "one"), (four, "four")] {
            for &nodes in &arguments.nodes {
                if name == "four" && nodes != 16 {
                    continue;
                }
                let pull = self.shared(nodes, name, image, ideal.slowest_s, |_| "")?;
                eprintln!("{pull:?}");
                pulls.push(pull);
            }
        }
        Ok(())
    }

    /// larder and distribution in turn, with the same number of nodes.
    fn distribution(
        &mut self,
        arguments: &Arguments,
        image: &Written,
        repetition: usize,
        pulls: &mut Vec<Pull>,
    ) -> Result<()> {
        let ideal = self.direct(1, image)?;
        if repetition == 1 && !pulls.iter().any(|pull| pull.what == "direct") {
            pulls.push(ideal.clone());
        }
        let mirror = Mirror::new(self.cluster.program(Program::Registry));
        for &nodes in arguments.nodes.iter().filter(|nodes| **nodes <= arguments.mirrored) {
            for turn in 0..2 {
                let pull = if (repetition + turn).is_multiple_of(2) {
                    mirror.pull(self, nodes, image, ideal.slowest_s)?
                } else {
                    self.shared(nodes, "one", image, ideal.slowest_s, |_| "")?
                };
                eprintln!("{pull:?}");
                pulls.push(pull);
            }
        }
        Ok(())
    }

    /// All that crosses between the zones shares what one node's link carries.
    fn zones(&mut self, image: &Written, rate: Rate) -> Result<Pull> {
        let ideal = self.direct(1, image)?.slowest_s;
        let zone = |odd: usize| self.cluster.others()[..8].iter().skip(odd).step_by(2).map(Other::machine);
        let _narrow = self.cluster.narrow(&zone(0).collect::<Vec<_>>(), &zone(1).collect::<Vec<_>>(), rate)?;
        let pull = self.shared(8, "one", image, ideal, |number| if number % 2 == 0 { "a" } else { "b" })?;
        eprintln!("{pull:?}");
        Ok(pull)
    }

    /// Two of four nodes pull; one of the others is killed at half of it. Beside the same without.
    fn killed(&mut self, image: &Written) -> Result<Vec<Row>> {
        let mut times = Vec::new();
        for kill in [false, true] {
            self.start(4, &|_| "")?;
            let half = image.layers[0].size / 2;
            let began = Instant::now();
            let took = std::thread::scope(|scope| {
                let pull = scope.spawn(|| self.take_all(2, "one", image));
                if kill {
                    let first = self.cluster.others()[0].machine();
                    wait_for("half of it is there", HANGS, || {
                        Ok((metric(first, "larder_peer_received_bytes_total", &[])? >= half as f64).then_some(()))
                    })?;
                    self.cluster.others()[3].machine().process("larder")?.kill()?;
                }
                pull.join().expect("a pull does not panic")
            })?;
            eprintln!("killed: {kill}, {took:?}, {:.1} s", began.elapsed().as_secs_f64());
            times.push(took.into_iter().fold(0.0, f64::max));
            self.end(4)?;
        }
        Ok(vec![Row {
            what: "a home killed at half of the pull: more time than without",
            unit: "s",
            limit: 1.0,
            value: times[1] - times[0],
        }])
    }

    /// With 100 nodes known, of which few are there.
    fn memory(&mut self, image: &Written) -> Result<Vec<Row>> {
        self.run += 1;
        let first = self.cluster.others()[0].machine();
        let me = member(first.name(), &first.address().to_string(), "");
        let more = (2..=100).map(|n| member(&format!("x{n}"), &format!("10.9.0.{n}"), ""));
        self.launch(0, &(me + &more.collect::<String>()))?;
        await_ready(first)?;
        let agent = first.process("larder")?;
        std::thread::sleep(Duration::from_secs(7));
        let idle = agent.memory()? as f64 / f64::from(1 << 20);
        agent.kill()?;

        self.start(4, &|_| "")?;
        // Warm first, then 32 clients of the blob at once.
        self.take_all(1, "one", image)?;
        let path = path("one", &image.layers[0].digest);
        let agent = first.process("larder")?;
        let mut most = 0;
        std::thread::scope(|scope| {
            let clients: Vec<_> = (0..32)
                .map(|_| scope.spawn(|| first.in_network(|| take(Ipv4Addr::LOCALHOST, 7439, &path, None))))
                .collect();
            while clients.iter().any(|client| !client.is_finished()) {
                most = most.max(agent.memory().unwrap_or(0));
                std::thread::sleep(Duration::from_millis(20));
            }
            clients.into_iter().try_for_each(|client| client.join().expect("no client panics")?.map(drop))
        })?;
        self.end(4)?;
        let row = |what, limit, value| Row { what, unit: "MiB", limit, value };
        Ok(vec![
            row("resident memory of an agent, idle, 100 nodes known", 15.0, idle),
            row("resident memory of an agent that gives 32 streams", 40.0, most as f64 / f64::from(1 << 20)),
        ])
    }

    /// The nodes pull from the origin itself.
    fn direct(&self, nodes: usize, image: &Written) -> Result<Pull> {
        let before = self.before(nodes)?;
        let origin = self.cluster.origin("docker.io")?.address();
        let authority = fs::read(self.cluster.authority())?;
        let paths: Vec<String> = image.layers.iter().map(|layer| bare(&path("one", &layer.digest))).collect();
        let took = self.all(nodes, |_| {
            for path in &paths {
                take(origin, 443, path, Some(&authority))?;
            }
            Ok(())
        })?;
        self.pull("direct", nodes, image, None, before, &took)
    }

    /// The nodes pull through larder, cold.
    fn shared(
        &mut self,
        nodes: usize,
        name: &str,
        image: &Written,
        ideal: f64,
        zone: impl Fn(usize) -> &'static str,
    ) -> Result<Pull> {
        self.start(nodes, &zone)?;
        let zoned = !zone(0).is_empty();
        if zoned {
            self.count_zones(nodes, &zone)?;
        }
        let before = self.before(nodes)?;
        let take = || self.take_all(nodes, name, image);
        let took = if self.timeline { timeline::beside(self.cluster, nodes, take)? } else { take()? };
        let what = if zoned { "zones" } else { "larder" };
        let mut pull = self.pull(what, nodes, image, Some(ideal), before, &took)?;
        if zoned {
            pull.cross_zone = Some(self.counted(nodes)? / size(image) as f64 / 2.0);
        }
        self.end(nodes)?;
        Ok(pull)
    }

    fn before(&self, nodes: usize) -> Result<(u64, Vec<u64>, machine::Moment)> {
        let sent = self.cluster.others()[..nodes].iter().map(|other| Ok(other.link().traffic()?.sent));
        Ok((self.origin_sent()?, sent.collect::<Result<_>>()?, machine::Moment::now([])))
    }

    fn pull(
        &self,
        what: &'static str,
        nodes: usize,
        image: &Written,
        ideal: Option<f64>,
        (origin, sent, moment): (u64, Vec<u64>, machine::Moment),
        took: &[f64],
    ) -> Result<Pull> {
        let idle = moment.until(&machine::Moment::now([])).idle;
        let size = size(image) as f64;
        let mut upload = 0.0_f64;
        for (other, before) in self.cluster.others().iter().zip(sent) {
            upload = upload.max((other.link().traffic()?.sent - before) as f64 / size);
        }
        let Some([fastest, _, slowest]) = spread(took.iter().copied()) else { bail!("nobody pulled") };
        Ok(Pull {
            what,
            nodes,
            layers: image.layers.len(),
            ideal_s: ideal.unwrap_or(slowest),
            fastest_s: fastest,
            slowest_s: slowest,
            origin: (self.origin_sent()? - origin) as f64 / size,
            upload,
            cross_zone: None,
            idle,
        })
    }

    /// Bytes of blobs that the origin has sent.
    fn origin_sent(&self) -> Result<u64> {
        let requests = self.cluster.origin("docker.io")?.requests()?;
        Ok(requests.iter().filter(|request| request.is_blob_get()).map(|request| request.bytes).sum())
    }

    /// Starts agents with empty stores on the first machines, all of which know each other.
    fn start(&mut self, nodes: usize, zone: &dyn Fn(usize) -> &'static str) -> Result<()> {
        self.run += 1;
        let one = |(number, other): (usize, &Other)| {
            let machine = other.machine();
            member(machine.name(), &machine.address().to_string(), zone(number))
        };
        let members: String = self.cluster.others()[..nodes].iter().enumerate().map(one).collect();
        (0..nodes).try_for_each(|number| self.launch(number, &members))?;
        self.cluster.others()[..nodes].iter().try_for_each(|other| await_ready(other.machine()))
    }

    fn launch(&self, number: usize, members: &str) -> Result<()> {
        let machine = self.cluster.others()[number].machine();
        let peering = nodes::peering(machine, &self.certificates, members)?;
        machine.write("/etc/larder/larder.toml", &format!("[node]\nhosts = false\n{peering}"))?;
        let store = format!("/var/lib/larder/{}", self.run);
        let launch = Launch::new(&self.larder).args(["node", "--log", "warn", "--store", &store]);
        machine.spawn("larder", launch).map(drop)
    }

    /// Ends the agents and deletes their stores.
    fn end(&self, nodes: usize) -> Result<()> {
        for other in &self.cluster.others()[..nodes] {
            let agent = other.machine().process("larder")?;
            if agent.is_running() {
                agent.kill()?;
            }
            other.machine().run(&["rm", "-rf", &format!("/var/lib/larder/{}", self.run)])?;
        }
        Ok(())
    }

    /// The first nodes take all layers of an image at once; how long each took, in seconds.
    fn take_all(&self, nodes: usize, name: &str, image: &Written) -> Result<Vec<f64>> {
        let paths: Vec<String> = image.layers.iter().map(|layer| path(name, &layer.digest)).collect();
        self.all(nodes, |machine| {
            // As a runtime does: several layers at a time.
            std::thread::scope(|scope| {
                let takes: Vec<_> = paths
                    .iter()
                    .map(|path| scope.spawn(|| machine.in_network(|| take(Ipv4Addr::LOCALHOST, 7439, path, None))?))
                    .collect();
                takes.into_iter().try_for_each(|take| take.join().expect("no client panics").map(drop))
            })
        })
    }

    /// Has the first machines do something at the same moment.
    fn all(&self, nodes: usize, act: impl Fn(&Machine) -> Result<()> + Sync) -> Result<Vec<f64>> {
        let barrier = Barrier::new(nodes);
        std::thread::scope(|scope| {
            let threads: Vec<_> = self.cluster.others()[..nodes]
                .iter()
                .map(|other| {
                    scope.spawn(|| {
                        other.machine().in_network(|| {
                            barrier.wait();
                            let began = Instant::now();
                            act(other.machine()).with_context(|| other.machine().name().to_owned())?;
                            Ok(began.elapsed().as_secs_f64())
                        })?
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().expect("no client panics")).collect()
        })
    }

    /// Has each machine count what comes from the other zone.
    fn count_zones(&self, nodes: usize, zone: &dyn Fn(usize) -> &'static str) -> Result<()> {
        let others = &self.cluster.others()[..nodes];
        for (number, other) in others.iter().enumerate() {
            let foreign: Vec<String> = (0..nodes)
                .filter(|index| zone(*index) != zone(number))
                .map(|index| others[index].machine().address().to_string())
                .collect();
            let rules = format!(
                "table ip zones {{\n counter foreign {{ }}\n chain in {{ type filter hook input priority 0; \
                 ip saddr {{ {} }} counter name foreign\n }}\n}}",
                foreign.join(", ")
            );
            other.machine().run(&["nft", &rules])?;
        }
        Ok(())
    }

    /// What came from the other zones, in bytes, headers included.
    fn counted(&self, nodes: usize) -> Result<f64> {
        let mut all = 0.0;
        for other in &self.cluster.others()[..nodes] {
            let text = other.machine().run(&["nft", "list", "counter", "ip", "zones", "foreign"])?;
            let bytes = text.split_whitespace().skip_while(|word| *word != "bytes").nth(1);
            all += bytes.and_then(|bytes| bytes.parse::<f64>().ok()).context("nft tells no bytes")?;
            other.machine().run(&["nft", "delete", "table", "ip", "zones"])?;
        }
        Ok(all)
    }
}

fn size(image: &Written) -> u64 {
    image.layers.iter().map(|layer| layer.size).sum()
}

fn path(name: &str, digest: &str) -> String {
    format!("/v2/library/{name}/blobs/{digest}?ns=docker.io")
}

fn bare(path: &str) -> String {
    path.split('?').next().unwrap_or_default().to_owned()
}

/// Takes a blob to nowhere. With an authority's certificate, over TLS.
fn take(address: Ipv4Addr, port: u16, path: &str, authority: Option<&[u8]>) -> Result<Taken> {
    let stream = TcpStream::connect((address, port))?;
    stream.set_read_timeout(Some(HANGS))?;
    match authority {
        None => Client::over(stream).take(path),
        Some(authority) => {
            let mut roots = rustls::RootCertStore::empty();
            for certificate in CertificateDer::pem_slice_iter(authority) {
                roots.add(certificate?)?;
            }
            let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
            let config = rustls::ClientConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()?
                .with_root_certificates(roots)
                .with_no_client_auth();
            let host = "registry-1.docker.io";
            let connection = rustls::ClientConnection::new(Arc::new(config), ServerName::try_from(host)?)?;
            Client::over(rustls::StreamOwned::new(connection, stream)).take(path)
        }
    }
}

fn table(pulls: &[Pull], rows: &[Row], arguments: &Arguments) -> String {
    let only: String =
        arguments.only.iter().map(|name| format!(" --only {}", format!("{name:?}").to_lowercase())).collect();
    let nodes: Vec<String> = arguments.nodes.iter().map(usize::to_string).collect();
    let mut text = format!(
        "`cargo run --release -p bench -- fanout{only} --repetitions {} --nodes {} --size {} --rate {} --direct {} --mirrored {}` on {}.\n\n\
         Medians (least – most). The processors' idle share was that of the whole machine, on which all nodes are.\n\n\
         | what | nodes | slowest node, in direct transfers | bytes from the origin, in images | most that a node sent, in images | across zones, in images per zone | idle |\n\
         |---|---|---|---|---|---|---|\n",
        arguments.repetitions,
        nodes.join(","),
        arguments.size,
        arguments.rate,
        arguments.direct,
        arguments.mirrored,
        machine::describe()
    );
    let mut seen: Vec<(&str, usize, usize)> = Vec::new();
    for pull in pulls {
        let key = (pull.what, pull.nodes, pull.layers);
        if !seen.contains(&key) {
            seen.push(key);
        }
    }
    for (what, nodes, layers) in seen {
        let same: Vec<&Pull> = pulls.iter().filter(|p| (p.what, p.nodes, p.layers) == (what, nodes, layers)).collect();
        let ideal = pulls.iter().find(|pull| pull.what == "direct" && pull.nodes == 1).map(|pull| pull.slowest_s);
        let times = |pull: &&Pull| pull.slowest_s / if what == "direct" { ideal.unwrap_or(1.0) } else { pull.ideal_s };
        let cell = |values: Vec<f64>| match spread(values.into_iter()) {
            Some([least, median, most]) if least == most => format!("{median:.2}"),
            Some([least, median, most]) => format!("{median:.2} ({least:.2} – {most:.2})"),
            None => "–".to_owned(),
        };
        let layers = if layers == 1 { "one layer" } else { "four layers" };
        text.push_str(&format!(
            "| {what}, {layers} | {nodes} | {} | {} | {} | {} | {} |\n",
            cell(same.iter().map(times).collect()),
            cell(same.iter().map(|pull| pull.origin).collect()),
            cell(same.iter().map(|pull| pull.upload).collect()),
            cell(same.iter().filter_map(|pull| pull.cross_zone).collect()),
            cell(same.iter().map(|pull| pull.idle).collect()),
        ));
    }
    text.push_str("\nMust reach: with 16 nodes ≤ 1.25 transfers, ≤ 1.02 images from the origin, ≤ 1.3 images sent by a node; across zones ≤ 1.05 images per zone; ");
    let median = |nodes: usize| {
        spread(pulls.iter().filter(|p| p.what == "larder" && p.nodes == nodes && p.layers == 1).map(|p| p.slowest_s))
            .map(|[_, median, _]| median)
    };
    match (median(4), median(32)) {
        (Some(few), Some(many)) => {
            text.push_str(&format!("time(32)/time(4) ≤ 1.3, which was {:.2}.\n", many / few));
        }
        _ => text.push_str("time(32)/time(4) ≤ 1.3, which was not measured.\n"),
    }
    text.push_str("\n| what | median (least – most) | must reach | reached |\n|---|---|---|---|\n");
    let mut named: Vec<&str> = Vec::new();
    for row in rows {
        if named.contains(&row.what) {
            continue;
        }
        named.push(row.what);
        let same = rows.iter().filter(|other| other.what == row.what).map(|row| row.value);
        let Some([least, median, most]) = spread(same) else { continue };
        let reached = if median <= row.limit { "yes" } else { "**no**" };
        text.push_str(&format!(
            "| {} | {median:.1} ({least:.1} – {most:.1}) {} | ≤ {} {} | {reached} |\n",
            row.what, row.unit, row.limit, row.unit
        ));
    }
    text
}
