use std::path::PathBuf;
use std::time::Duration;

use super::access::Access;
use super::certificates::{Certificates, Checks};
use super::controller::Controller;
use super::freshness::Tags;
use super::section::{Document, Problems, Section, textual};
use super::units::{Address, Span};
use super::upstream::{self, Upstream};
use super::{Config, Node, Registry, Role, Store, deadlines, limits, pin, tls};
use crate::logging::{self, Format};

/// Reads a configuration file's text. What it leaves out has its default.
pub fn read(role: Role, certificates: Certificates, origin: &str, text: &str) -> Result<Config, Problems> {
    let document = Document::new(origin, text);
    let table = document.parse();
    // What follows from broken syntax would only hide it.
    document.finish()?;
    let config = read_root(role, certificates, Section::root(&document, &table));
    document.finish()?;
    Ok(config)
}

fn read_root(role: Role, certificates: Certificates, mut root: Section<'_>) -> Config {
    let (mut warnings, mut checks) = (Vec::new(), Checks::new(role, certificates));
    let listen = root.value("listen").map_or(role.listen(), |Address(address)| address);
    let metrics = root.value("metrics").unwrap_or(role.metrics());
    let grace = root.value("grace").map_or(Duration::from_secs(30), |Span(grace)| grace);
    let unqualified = root.value("unqualified").unwrap_or(Unqualified(Some(hub())));
    let unlisted = root.value("unlisted").unwrap_or(true);
    let exclude: Vec<RegistryName> = root.value("exclude").unwrap_or_default();
    let exclude: Vec<oci::Registry> = exclude.into_iter().map(|RegistryName(registry)| registry).collect();
    let pins: Vec<pin::Pin> = root.value("pins").unwrap_or_default();
    let tls = root.section("tls").and_then(|section| tls::read(section, &mut warnings));
    let (log, log_format) = read_log(root.section("log"));
    let store = read_store(role, root.section("store"));
    let limits = root.section("limits").map(limits::read).unwrap_or_default();
    let tags = root.section("freshness").map(Tags::read).unwrap_or_default();
    let access = root.section("access").map(Access::read).unwrap_or_default();
    let registry = root.section("registry").map(|section| Registry::read(section, &mut checks)).unwrap_or_default();
    let node = root.section("node").map(|section| Node::read(section, &mut checks)).unwrap_or_default();
    let controller = root.section("controller").map(Controller::read).unwrap_or_default();
    let deadlines = root.section("deadlines").map(deadlines::read).unwrap_or_default();

    let mut upstreams: Vec<Upstream> = Vec::new();
    for section in root.sections("upstream") {
        upstream::read(section, &tags, &exclude, &mut upstreams, &mut warnings);
    }
    root.finish();

    Config {
        role,
        file: None,
        listen,
        metrics,
        grace,
        tls,
        log,
        log_format,
        store,
        limits,
        unqualified: unqualified.0,
        unlisted,
        exclude,
        pins: pins.into_iter().map(|pin::Pin(image)| (image.name, image.reference)).collect(),
        rules: tags.rules(),
        access,
        registry,
        node,
        controller,
        deadlines,
        upstreams,
        expired: checks.into_expired(),
        warnings,
    }
}

fn read_log(section: Option<Section<'_>>) -> (String, Format) {
    let (mut filter, mut format) = (None, None);
    if let Some(mut section) = section {
        filter = section.value("filter").map(|Filter(text)| text);
        format = section.value("format");
        section.finish();
    }
    (filter.unwrap_or_else(|| "info".to_owned()), format.unwrap_or(Format::Text))
}

fn read_store(role: Role, section: Option<Section<'_>>) -> Store {
    let mut store = Store { path: PathBuf::new(), budget: role.budget(), memory: None, scrub: None };
    if let Some(mut section) = section {
        store.path = section.value("path").unwrap_or_default();
        store.budget = section.value("budget").unwrap_or(store.budget);
        store.memory = section.value("memory");
        store.scrub = section.value("scrub");
        section.finish();
    }
    store
}

fn hub() -> oci::Registry {
    "docker.io".parse().expect("a host name")
}

/// A registry's name.
pub(super) struct RegistryName(pub oci::Registry);

impl std::str::FromStr for RegistryName {
    type Err = String;

    fn from_str(text: &str) -> Result<RegistryName, String> {
        text.parse().map(RegistryName).map_err(|error| format!("{text:?}: {error}"))
    }
}

/// A registry's name, or nothing.
struct Unqualified(Option<oci::Registry>);

impl std::str::FromStr for Unqualified {
    type Err = String;

    fn from_str(text: &str) -> Result<Unqualified, String> {
        match text {
            "" => Ok(Unqualified(None)),
            _ => text.parse().map(|RegistryName(registry)| Unqualified(Some(registry))),
        }
    }
}

/// A log filter that can be read.
struct Filter(String);

impl std::str::FromStr for Filter {
    type Err = String;

    fn from_str(text: &str) -> Result<Filter, String> {
        logging::filter(text).map(|_| Filter(text.to_owned()))
    }
}

impl std::str::FromStr for Format {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Format, &'static str> {
        match text {
            "text" => Ok(Format::Text),
            "json" => Ok(Format::Json),
            _ => Err("expected \"text\" or \"json\""),
        }
    }
}

textual!(
    PathBuf: "a path",
    RegistryName: "the name of a registry such as \"ghcr.io\"",
    Unqualified: "the name of a registry such as \"docker.io\", or \"\"",
    Filter: "a log filter such as \"info\"",
    Format: "\"text\" or \"json\"",
);
