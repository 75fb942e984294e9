//! Paths between groups of machines that are narrower than their links, such as that between zones.

use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Result;

use crate::{
    machine::Machine,
    network::{Rate, batch, ip, net_of, net_of_process},
};

/// What leads from some machines to others, all of which share one rate on it. It ends when this value is dropped.
#[derive(Debug)]
pub struct Narrow {
    switch: i32,
    interface: String,
    ports: Vec<String>,
}

impl Narrow {
    /// Has what `from` sends to `to` go through one interface on the switch, on which it waits for its turn.
    pub(crate) fn new(switch: &Machine, from: &[&Machine], to: &[&Machine], rate: Rate) -> Result<Self> {
        static MADE: AtomicUsize = AtomicUsize::new(0);
        let interface = format!("narrow-{}", MADE.fetch_add(1, Ordering::Relaxed));
        let narrow = Self {
            switch: switch.init(),
            interface: interface.clone(),
            ports: from.iter().map(|machine| machine.name().to_owned()).collect(),
        };
        let net = net_of(switch);
        ip(&net, &format!("link add {interface} type ifb\nlink set {interface} up\n"))?;
        let burst = rate.burst();
        let mut rules = format!("qdisc add dev {interface} root tbf rate {rate} burst {burst} latency 100ms\n");
        for port in &narrow.ports {
            rules += &format!("qdisc add dev {port} ingress\n");
            for machine in to {
                let address = machine.address();
                rules += &format!(
                    "filter add dev {port} ingress protocol ip u32 match ip dst {address}/32 \
                     action mirred egress redirect dev {interface}\n"
                );
            }
        }
        batch("tc", &net, &rules)?;
        Ok(narrow)
    }
}

impl Drop for Narrow {
    fn drop(&mut self) {
        // The cluster may have ended before, and all this with it.
        let net = net_of_process(self.switch);
        let rules: String = self.ports.iter().map(|port| format!("qdisc delete dev {port} ingress\n")).collect();
        let _ = batch("tc", &net, &rules);
        let _ = ip(&net, &format!("link delete {}\n", self.interface));
    }
}
