use std::fmt;
use std::path::PathBuf;

use ::upstream::{Directory, Endpoint, Limits, Metrics, Settings, SettingsError, UpstreamSettings};
use oci::Registry;

use super::file::RegistryName;
use super::freshness::{Tags, Withdrawn};
use super::secret;
use super::section::{Fault, Section, Setting};
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
    let token_hosts = section.value("token_hosts").unwrap_or_default();
    let allowed_hosts = section.value("redirect_hosts").unwrap_or_default();
    let limits = section.section("limits").map(limits).unwrap_or_default();
    let credential = section.section("credential");

    if let Some(registry) = registry {
        let credential = credential.and_then(|section| secret::credential(section, &registry, warnings));
        if rules.shared && credential.is_none() && !section.has("credential") {
            section.problem("shared", "means nothing without a credential: what is public is shared anyway");
        }
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
        check(&section, &settings);
        upstreams.push(Upstream { settings, credential: credential.map(|found| found.to_string()) });
    }
    section.finish();
}

/// Lets the client side say what it cannot use, so that the rules are in one place.
fn check(section: &Section<'_>, settings: &UpstreamSettings) {
    let key = if section.has("endpoints") { "endpoints" } else { "endpoint" };
    // Not left to the client side, whose errors quote the URL.
    if settings.endpoints.iter().any(|endpoint| endpoint.url.contains('@')) {
        section.problem(key, "user names and passwords do not belong into a URL; write a credential");
        return;
    }
    let alone = Settings { upstreams: vec![settings.clone()], ..Settings::default() };
    let Err(error) = Directory::new(alone, Metrics::unregistered()) else { return };
    let key = match &error {
        SettingsError::Host { host, .. } if settings.token_hosts.contains(host) => "token_hosts",
        SettingsError::Host { .. } => "redirect_hosts",
        SettingsError::Limit { .. } => "limits",
        SettingsError::Endpoint { .. } | SettingsError::Ca { .. } | SettingsError::Front { .. } => key,
    };
    section.problem(key, error);
}

/// Reads `endpoints = ["https://…"]`, or `[[upstream.endpoint]]` where there is more to say about one.
fn endpoints(section: &mut Section<'_>) -> Vec<Endpoint> {
    let urls: Option<Vec<String>> = section.value("endpoints");
    if section.has("endpoints") && section.has("endpoint") {
        section
            .problem("endpoint", "does not go together with endpoints; write every endpoint as [[upstream.endpoint]]");
    }
    let mut endpoints: Vec<Endpoint> = urls.unwrap_or_default().into_iter().map(Endpoint::new).collect();
    for mut table in section.sections("endpoint") {
        let url: Option<String> = table.value("url");
        let insecure = table.value("insecure").unwrap_or(false);
        let ca: Option<PathBuf> = table.value("ca");
        let mut ca_pem = None;
        if let Some(path) = &ca {
            match std::fs::read_to_string(path) {
                Ok(text) => ca_pem = Some(text),
                Err(error) => table.problem("ca", format_args!("{}: cannot be read: {error}", path.display())),
            }
        }
        match url {
            Some(url) => {
                let plain = url.starts_with("http://");
                if plain && (insecure || ca.is_some()) {
                    let key = if insecure { "insecure" } else { "ca" };
                    table.problem(key, "is about certificates, and this endpoint is without TLS (http://)");
                }
                endpoints.push(Endpoint { url, ca_pem, insecure_skip_verify: insecure });
            }
            None if table.has("url") => {}
            None => table.problem("url", "is missing: write it like \"https://mirror.example\""),
        }
        table.finish();
    }
    endpoints
}

fn limits(mut section: Section<'_>) -> Limits {
    let limits = Limits {
        concurrency: section.value("concurrency").and_then(|number: u32| usize::try_from(number).ok()),
        requests_per_second: section.value("requests_per_second").map(|Rate(rate)| rate),
        bytes_per_second: section.value("bytes_per_second").map(|Size(size)| size),
    };
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
