use std::fmt;

use super::freshness::written;
use super::{Config, Listener, Role, Span, Upstream};

/// What `--check` prints: what would be done, in words.
impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = self.file.as_ref().map_or("no file, defaults".to_owned(), |path| path.display().to_string());
        let tls =
            self.tls.as_ref().map_or("plain HTTP".to_owned(), |tls| format!("TLS, {}", tls.certificate.display()));
        let metrics = match self.metrics {
            Listener::On(address) => address.to_string(),
            Listener::Off => "off".to_owned(),
        };
        writeln!(f, "configuration  {file}")?;
        if self.role == Role::Controller {
            writeln!(f, "metrics        {metrics}")?;
            writeln!(f, "lease          {}/{}", self.controller.namespace, self.controller.lease)?;
            let registry = self.controller.registry.as_deref().unwrap_or("the origins");
            return writeln!(f, "tags           asked of {registry}");
        }
        writeln!(f, "clients        {} ({tls})", self.listen)?;
        if let Some(nodes) = self.registry.nodes.as_ref().filter(|_| self.role == Role::Registry) {
            writeln!(f, "nodes          {} (mutual TLS, {})", nodes.listen, nodes.certificates.display())?;
        }
        writeln!(f, "metrics        {metrics}")?;
        writeln!(f, "store          {}, {}", self.store.path.display(), self.store.budget)?;
        if self.role == Role::Node {
            let known = self.node.registry_certificates.as_ref().filter(|_| self.node.registry.is_some());
            let known = known.map_or_else(String::new, |folder| format!(" (mutual TLS, {})", folder.display()));
            writeln!(f, "registry       {}{known}", self.node.registry.as_deref().unwrap_or("none"))?;
            match &self.node.peers {
                None => writeln!(f, "peers          none")?,
                Some(peers) => writeln!(
                    f,
                    "peers          {}; this is {}, answering on {}",
                    peers.members, peers.name, peers.listen
                )?,
            }
            if let Some(cluster) = &self.node.cluster {
                let (name, free) = (&cluster.name, cluster.keep_free);
                writeln!(f, "cluster        this is its node {name}; prefetch leaves {free} of the disk free")?;
            }
            let hosts = if self.node.hosts { "are pointed at larder" } else { "are left as they are" };
            writeln!(f, "runtimes       of {} {hosts}", self.node.host_root.display())?;
        }
        if let Some(cluster) = self.registry.cluster.as_ref().filter(|_| self.role == Role::Registry) {
            let namespace = &cluster.namespace;
            writeln!(f, "cluster        its Upstreams are heeded, with Secrets of the namespace {namespace}")?;
        }
        writeln!(f, "tags           {}", tags(&self.rules))?;
        match &self.unqualified {
            Some(registry) => writeln!(f, "short names    belong to {registry}")?,
            None => writeln!(f, "short names    are refused")?,
        }
        for (name, reference) in &self.pins {
            let separator = if matches!(reference, oci::Reference::Digest(_)) { '@' } else { ':' };
            writeln!(f, "pinned         {name}{separator}{reference}")?;
        }
        for upstream in &self.upstreams {
            write_upstream(f, upstream)?;
        }
        for registry in &self.exclude {
            writeln!(f, "excluded       {registry}")?;
        }
        let others = if self.unlisted { "every public registry, over https" } else { "none" };
        writeln!(f, "others         {others}")
    }
}

fn write_upstream(f: &mut fmt::Formatter<'_>, upstream: &Upstream) -> fmt::Result {
    let settings = &upstream.settings;
    writeln!(f, "upstream       {}", settings.registry)?;
    if settings.endpoints.is_empty() {
        let (host, port) = settings.registry.default_endpoint();
        let port = if port == 443 { String::new() } else { format!(":{port}") };
        writeln!(f, "  from         https://{host}{port}")?;
    }
    for endpoint in &settings.endpoints {
        let trust = match (&endpoint.ca_pem, endpoint.insecure_skip_verify) {
            _ if endpoint.url.starts_with("http://") => " (without TLS)",
            (_, true) => " (certificate not checked)",
            (Some(_), false) => " (with its own CA)",
            (None, false) => "",
        };
        writeln!(f, "  from         {}{trust}", endpoint.url)?;
    }
    if let Some(credential) = &upstream.credential {
        let whom = if upstream.shared() { "shared with every client" } else { "not shared" };
        writeln!(f, "  credential   {credential}; {whom}")?;
    }
    writeln!(f, "  tags         {}", tags(&settings.rules))
}

fn tags(rules: &cache::Rules) -> String {
    let patterns = match rules.patterns.len() {
        0 => String::new(),
        1 => ", 1 pattern".to_owned(),
        number => format!(", {number} patterns"),
    };
    let stale = Span(rules.stale);
    format!("fresh for {}{patterns}; in an outage for {stale}", written(rules.freshness))
}
