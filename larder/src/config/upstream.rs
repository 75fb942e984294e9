use std::fmt;
use std::path::PathBuf;

use ::upstream::{Endpoint, Limits, UpstreamSettings};
use oci::Registry;

use super::file::RegistryName;
use super::freshness::{Tags, Withdrawn};
use super::secret;
use super::section::{Fault, Located, Section, Setting};
use super::units::Size;

/// A listed upstream.
pub struct Upstream {
    /// What the client side of it needs.
    pub settings: UpstreamSettings,
    /// Its credential in words that hold no secret.
    pub credential: Option<String>,
}

impl Upstream {
    /// Whether everybody may have what its credential gives.
    pub fn shared(&self) -> bool {
        self.settings.rules.shared && self.settings.credential.is_some()
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.settings.registry.as_str()
    }
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Reads an `[[upstream]]` and adds it to those before it.
pub fn read(
    mut section: Section<'_>,
    tags: &Tags,
    exclude: &[Registry],
    upstreams: &mut Vec<Upstream>,
    warnings: &mut Vec<String>,
) {
    let registry = section.value("registry").map(|RegistryName(registry)| registry);
    if registry.is_none() && !section.has("registry") {
        section.problem("registry", "is missing: which registry is this about?");
    }
    let endpoints = endpoints(&mut section);
    let mut rules = Tags::read_keys(&mut section, "freshness").or(tags).rules();
    rules.serve_when_gone = section.value("on_not_found") == Some(Withdrawn::Serve);
    rules.serve_when_denied = section.value("on_denied") == Some(Withdrawn::Serve);
    rules.shared = section.value("shared").unwrap_or(false);
    let token_hosts = hosts(&mut section, "token_hosts");
    let allowed_hosts = hosts(&mut section, "redirect_hosts");
    let limits = section.section("limits").map(limits).unwrap_or_default();
    let credential = section.section("credential");
    let credential = credential.and_then(|section| secret::credential(section, registry.as_ref(), warnings));
    if rules.shared && credential.is_none() && !section.has("credential") {
        section.problem("shared", "means nothing without a credential: what is public is shared anyway");
    }

    if let Some(registry) = registry {
        if upstreams.iter().any(|other| other.settings.registry == registry) {
            section.problem("registry", format_args!("{registry} is listed twice"));
        }
        if exclude.contains(&registry) {
            section.problem("registry", format_args!("{registry} is excluded as well; take it out of exclude"));
        }
        let settings = UpstreamSettings {
            endpoints,
            credential: credential.as_ref().map(|found| found.credential.clone()),
            rules,
            limits,
            token_hosts,
            allowed_hosts,
            ..UpstreamSettings::new(registry)
        };
        upstreams.push(Upstream { settings, credential: credential.map(|found| found.to_string()) });
    }
    section.finish();
}

/// Reads a list of `host` and `host:port`.
fn hosts(section: &mut Section<'_>, key: &'static str) -> Vec<String> {
    let hosts = section.list::<String>(key);
    for host in &hosts {
        if let Err(error) = UpstreamSettings::check_host(&host.value) {
            section.problem_with(key, host, error);
        }
    }
    hosts.into_iter().map(|host| host.value).collect()
}

/// Says what is wrong with a URL without a word of it that may be a secret.
fn check_url(section: &Section<'_>, key: &str, url: &Located<String>) {
    let Err(error) = Endpoint::check_url(&url.value) else { return };
    if url.value.contains('@') {
        section.problem_with(key, url, "user names and passwords do not belong into a URL; write a credential");
    } else if url.value.contains('?') {
        section.problem_with(key, url, error);
    } else {
        section.problem_with(key, url, format_args!("{:?} is no endpoint: {error}", url.value));
    }
}

/// Reads `endpoints = ["https://…"]`, or `[[upstream.endpoint]]` where there is more to say about one.
fn endpoints(section: &mut Section<'_>) -> Vec<Endpoint> {
    if section.has("endpoints") && section.has("endpoint") {
        section
            .problem("endpoint", "does not go together with endpoints; write every endpoint as [[upstream.endpoint]]");
    }
    let urls = section.list::<String>("endpoints");
    for url in &urls {
        check_url(section, "endpoints", url);
    }
    let tables = section.sections("endpoint").into_iter().filter_map(endpoint);
    urls.into_iter().map(|url| Endpoint::new(url.value)).chain(tables).collect()
}

/// Reads an `[[upstream.endpoint]]`.
fn endpoint(mut table: Section<'_>) -> Option<Endpoint> {
    let url: Option<Located<String>> = table.value("url");
    let insecure = table.value("insecure").unwrap_or(false);
    let ca: Option<Located<PathBuf>> = table.value("ca");
    let mut ca_pem = None;
    if let Some(path) = &ca {
        let text = std::fs::read_to_string(&path.value).map_err(|error| format!("cannot be read: {error}"));
        match text.and_then(|text| ::upstream::trusting(&text).map(|_| text)) {
            Ok(text) => ca_pem = Some(text),
            Err(error) => table.problem_with("ca", path, format_args!("{}: {error}", path.value.display())),
        }
    }
    match &url {
        Some(url) => {
            check_url(&table, "url", url);
            if url.value.starts_with("http://") {
                for (key, given) in [("insecure", insecure), ("ca", ca.is_some())] {
                    if given {
                        table.problem(key, "is about certificates, and this endpoint is without TLS (http://)");
                    }
                }
            }
        }
        None if table.has("url") => {}
        None => table.problem("url", "is missing: write it like \"https://mirror.example\""),
    }
    table.finish();
    Some(Endpoint { url: url?.value, ca_pem, insecure_skip_verify: insecure })
}

fn limits(mut section: Section<'_>) -> Limits {
    let limits = Limits {
        concurrency: section.value("concurrency").and_then(|number: u32| usize::try_from(number).ok()),
        requests_per_second: section.value("requests_per_second").map(|Rate(rate)| rate),
        bytes_per_second: section.value("bytes_per_second").map(|Size(size)| size),
    };
    if limits.bytes_per_second == Some(0) {
        section.problem("bytes_per_second", "must be above zero");
    }
    section.finish();
    limits
}

/// A number above zero, whole or not.
struct Rate(f64);

impl Setting for Rate {
    fn read(value: &toml::Spanned<toml::de::DeValue<'_>>) -> Result<Rate, Fault> {
        let number = match value.get_ref() {
            toml::de::DeValue::Integer(integer) => integer.as_str().parse().ok(),
            toml::de::DeValue::Float(float) => float.as_str().parse().ok(),
            _ => return Err(Fault::kind(value, "a number")),
        };
        let number = number.filter(|number: &f64| number.is_finite() && *number > 0.0);
        number.map(Rate).ok_or_else(|| Fault::at(value, "expected a number above zero"))
    }
}
