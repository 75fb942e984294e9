//! The network of a cluster: one switch, and a link from it to every machine and to this host.
//!
//! Every cluster has a `/16` of its own in `100.64.0.0/10`, which hosts rarely have other uses for. The first `/24` is for machines, and each
//! node has another for its pods, which it answers for on the wire, so that nobody needs routes to pods. Origins have addresses that look public, since a cache must refuse others
//! unless it is told to; they exist in the cluster's own namespaces only.

use std::{
    fmt,
    io::Write as _,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::machine::{Machine, text_of};

const PREFIX_LENGTH: u8 = 16;
/// The longest name of a network interface, without its end mark.
pub(crate) const NAME_LIMIT: usize = 15;
const BRIDGE: &str = "lan";
/// The smallest bucket that lets the kernel's largest packets through.
const LEAST_BURST: u64 = 256 << 10;

/// Who has which address in a cluster's subnet.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Subnet(pub(crate) u8);

impl Subnet {
    const fn at(self, host: u8) -> Ipv4Addr {
        Ipv4Addr::new(100, 64 + self.0, 0, host)
    }

    pub(crate) const fn host(self) -> Ipv4Addr {
        self.at(1)
    }

    pub(crate) const fn control(self) -> Ipv4Addr {
        self.at(2)
    }

    pub(crate) const fn internet(self) -> Ipv4Addr {
        self.at(3)
    }

    pub(crate) const fn switch(self) -> Ipv4Addr {
        self.at(4)
    }

    /// Of the node with that number, counted from 0.
    pub(crate) fn node(self, number: usize) -> Result<Ipv4Addr> {
        match u8::try_from(number) {
            Ok(number) if number < 200 => Ok(self.at(11 + number)),
            _ => bail!("a cluster has addresses for 200 nodes"),
        }
    }
}

/// The addresses of the pods of the node with that address.
pub(crate) fn pods_of(node: Ipv4Addr) -> String {
    let [first, second, _, last] = node.octets();
    format!("{first}.{second}.{last}.0/24")
}

/// The address of the origin with that number, counted from 0.
pub(crate) fn origin_address(number: usize) -> Result<Ipv4Addr> {
    let number = u8::try_from(number).ok().filter(|number| *number < u8::MAX).context("too many origins")?;
    Ok(Ipv4Addr::new(11, 20, 0, number + 1))
}

/// How fast a link is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    bits_per_second: u64,
}

impl Rate {
    /// So many million bits per second.
    #[must_use]
    pub const fn mbit(mbit: u64) -> Self {
        Self { bits_per_second: mbit * 1_000_000 }
    }

    /// So many bytes per second.
    #[must_use]
    pub const fn bytes_per_second(bytes: u64) -> Self {
        Self { bits_per_second: bytes * 8 }
    }

    /// The bytes that may pass at once: what this rate carries in 10 ms.
    pub(crate) fn burst(self) -> u64 {
        (self.bits_per_second / 8 / 100).max(LEAST_BURST)
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}bit", self.bits_per_second)
    }
}

/// What has crossed a link since it was made, in bytes, as its machine sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    /// Bytes that the machine received.
    pub received: u64,
    /// Bytes that the machine sent.
    pub sent: u64,
}

/// The switch that all links lead to, in a network namespace of its own.
#[derive(Debug)]
pub(crate) struct Switch {
    machine: Machine,
    subnet: Subnet,
}

impl Switch {
    /// Makes the switch out of a machine, and links it with this host by an interface of that name.
    pub(crate) fn new(machine: Machine, subnet: Subnet) -> Result<Self> {
        let switch = Self { machine, subnet };
        let interface = host_interface(subnet);
        ip(
            &switch.net(),
            &format!(
                "link add {BRIDGE} type bridge\n\
                 link set {BRIDGE} up\n\
                 link add host type veth peer name {interface} netns {}\n\
                 link set host master {BRIDGE} up\n",
                std::process::id()
            ),
        )?;
        let address = subnet.host();
        ip(
            Path::new("/proc/self/ns/net"),
            &format!("address add {address}/{PREFIX_LENGTH} dev {interface}\nlink set {interface} up\n"),
        )?;
        Ok(switch)
    }

    pub(crate) fn machine(&self) -> &Machine {
        &self.machine
    }

    /// Gives a machine its link. `gateway` is where it sends what is for no other machine.
    pub(crate) fn plug(&self, machine: &Machine, gateway: Option<Ipv4Addr>) -> Result<Link> {
        let port = machine.name();
        if port.len() > NAME_LIMIT {
            bail!("{port:?} is too long for the name of a machine: at most {NAME_LIMIT} bytes");
        }
        ip(
            &self.net(),
            &format!(
                "link add {port} type veth peer name eth0 netns {}\nlink set {port} master {BRIDGE} up\n",
                machine.init()
            ),
        )?;
        let mut inside = format!("address add {}/{PREFIX_LENGTH} dev eth0\nlink set eth0 up\n", machine.address());
        if let Some(gateway) = gateway {
            inside += &format!("route add default via {gateway}\n");
        }
        ip(&net_of(machine), &inside)?;
        Ok(Link { switch: self.machine.init(), port: port.to_owned(), machine: machine.init() })
    }

    /// Ends the switch, and waits until this host has lost its link too.
    pub(crate) fn end(&self) -> Result<()> {
        self.machine.end();
        let interface = Path::new("/sys/class/net").join(host_interface(self.subnet));
        let within = std::time::Duration::from_secs(10);
        crate::wait::wait_for_end("the host's link is gone", within, || Ok((!interface.exists()).then_some(())))
    }

    fn net(&self) -> PathBuf {
        net_of(&self.machine)
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        // Where it matters that this works, `end` was called before.
        let _ = self.end();
    }
}

fn host_interface(subnet: Subnet) -> String {
    format!("testbed{}", subnet.0)
}

/// The link between a machine and the switch.
#[derive(Debug, Clone)]
pub struct Link {
    switch: i32,
    machine: i32,
    port: String,
}

impl Link {
    pub(crate) fn of(switch: i32, machine: i32, port: &str) -> Self {
        Self { switch, machine, port: port.to_owned() }
    }

    /// Caps it in both directions, at once and for open connections too. Calling it again changes the rate.
    ///
    /// # Errors
    ///
    /// The machine is gone.
    pub fn cap(&self, rate: Rate) -> Result<()> {
        let burst = rate.burst();
        for (process, interface) in self.ends() {
            let rule = format!("qdisc replace dev {interface} root tbf rate {rate} burst {burst} latency 100ms\n");
            batch("tc", &net_of_process(process), &rule)?;
        }
        Ok(())
    }

    /// Takes the cap away.
    ///
    /// # Errors
    ///
    /// It has none, or the machine is gone.
    pub fn uncap(&self) -> Result<()> {
        for (process, interface) in self.ends() {
            batch("tc", &net_of_process(process), &format!("qdisc delete dev {interface} root\n"))?;
        }
        Ok(())
    }

    /// Cuts it, like a cable that is pulled: packets are lost, connections hang.
    ///
    /// # Errors
    ///
    /// The machine is gone.
    pub fn cut(&self) -> Result<()> {
        ip(&net_of_process(self.switch), &format!("link set {} down\n", self.port))
    }

    /// Mends it after [`Self::cut`].
    ///
    /// # Errors
    ///
    /// The machine is gone.
    pub fn mend(&self) -> Result<()> {
        ip(&net_of_process(self.switch), &format!("link set {} up\n", self.port))
    }

    /// The bytes that have crossed it so far, headers of all layers included.
    ///
    /// # Errors
    ///
    /// The machine is gone.
    pub fn traffic(&self) -> Result<Traffic> {
        let path = format!("/proc/{}/net/dev", self.machine);
        let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        let line = text.lines().find_map(|line| line.trim().strip_prefix("eth0:")).context("it has no eth0")?;
        let numbers: Vec<u64> = line.split_whitespace().map_while(|word| word.parse().ok()).collect();
        match numbers[..] {
            [received, _, _, _, _, _, _, _, sent, ..] => Ok(Traffic { received, sent }),
            _ => bail!("{path} has another form than expected"),
        }
    }

    fn ends(&self) -> [(i32, &str); 2] {
        [(self.switch, &self.port), (self.machine, "eth0")]
    }
}

pub(crate) fn net_of(machine: &Machine) -> PathBuf {
    net_of_process(machine.init())
}

pub(crate) fn net_of_process(process: i32) -> PathBuf {
    format!("/proc/{process}/ns/net").into()
}

/// Runs commands of `ip` in a network namespace.
pub(crate) fn ip(net: &Path, commands: &str) -> Result<()> {
    batch("ip", net, commands)
}

pub(crate) fn batch(program: &str, net: &Path, commands: &str) -> Result<()> {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={}", net.display())).args([program, "-batch", "-"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("cannot run {command:?}"))?;
    child.stdin.take().context("it was asked for")?.write_all(commands.as_bytes())?;
    let output = child.wait_with_output()?;
    text_of(&command, output).with_context(|| format!("the commands were:\n{commands}"))?;
    Ok(())
}
