//! The faulty upstream as a program, for scripts and benchmarks.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context;
use clap::Parser;
use faulty::{AccountSpec, Auth, ImageSpec, Rule, Setup, Tls, Upstream};

/// An OCI registry that misbehaves on request. Control it while it runs with POST /_faulty/setup and GET /_faulty/log.
#[derive(Parser)]
struct Args {
    /// Where to listen; port 0 takes a free one. The address is printed.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Append every request to this file, one JSON object a line.
    #[arg(long)]
    log: Option<PathBuf>,
    /// Put an image: repo:tag:size[,size..]; sizes in bytes, or with K, M, G for powers of 1024.
    #[arg(long = "image", value_parser = image)]
    images: Vec<ImageSpec>,
    /// A JSON file: an array of rules, or an object with everything that can be set up.
    #[arg(long)]
    rules: Option<PathBuf>,
    /// Body bytes per second over all connections.
    #[arg(long)]
    cap: Option<u64>,
    /// Ask for credentials: basic or bearer.
    #[arg(long, value_parser = auth)]
    auth: Option<Auth>,
    /// An account that may read everything: user:password.
    #[arg(long = "account", value_parser = account)]
    accounts: Vec<AccountSpec>,
    /// Serve TLS with a certificate of a new CA, whose certificate is written to this file.
    #[arg(long)]
    tls_ca: Option<PathBuf>,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let up = Upstream::open(args.listen, args.tls_ca.as_ref().map(|_| Tls::trusted()))?;
    if let Some(path) = &args.tls_ca {
        std::fs::write(path, up.ca_pem()).with_context(|| format!("writing {}", path.display()))?;
    }
    if let Some(path) = &args.log {
        up.log_to(path).with_context(|| format!("opening {}", path.display()))?;
    }
    if let Some(path) = &args.rules {
        let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        let setup = setup(&text).with_context(|| format!("understanding {}", path.display()))?;
        report(&up.setup(setup).0, &[]);
    }
    let images = up.setup(Setup {
        images: args.images.clone(),
        accounts: args.accounts,
        auth: args.auth,
        cap: args.cap,
        ..Setup::default()
    });
    report(&images.0, &args.images);
    println!("listening on {}", up.url());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut term = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        tokio::select! {
            _ = term.recv() => Ok(()),
            interrupted = tokio::signal::ctrl_c() => interrupted,
        }
    })?;
    Ok(())
}

fn report(images: &[faulty::Image], specs: &[ImageSpec]) {
    for (number, image) in images.iter().enumerate() {
        let name = specs.get(number).map(|spec| format!("{}:{} ", spec.repo, spec.tag)).unwrap_or_default();
        println!("image {name}{} layers {}", image.digest, image.layers.join(","));
    }
}

fn setup(text: &str) -> serde_json::Result<Setup> {
    if text.trim_start().starts_with('[') {
        let rules: Vec<Rule> = serde_json::from_str(text)?;
        return Ok(Setup { rules: Some(rules), ..Setup::default() });
    }
    serde_json::from_str(text)
}

fn image(text: &str) -> Result<ImageSpec, String> {
    let usage = || "expected repo:tag:size[,size..]".to_owned();
    let (name, sizes) = text.rsplit_once(':').ok_or_else(usage)?;
    let (repo, tag) = name.rsplit_once(':').ok_or_else(usage)?;
    let layers = sizes.split(',').map(size).collect::<Option<Vec<u64>>>().ok_or_else(usage)?;
    Ok(ImageSpec { repo: repo.to_owned(), tag: tag.to_owned(), layers, seed: 0 })
}

fn size(text: &str) -> Option<u64> {
    let (digits, shift) = match text.strip_suffix(['K', 'k']) {
        Some(digits) => (digits, 10),
        None => match text.strip_suffix(['M', 'm']) {
            Some(digits) => (digits, 20),
            None => text.strip_suffix(['G', 'g']).map_or((text, 0), |digits| (digits, 30)),
        },
    };
    digits.parse::<u64>().ok()?.checked_shl(shift)
}

fn auth(text: &str) -> Result<Auth, String> {
    match text {
        "none" => Ok(Auth::None),
        "basic" => Ok(Auth::Basic),
        "bearer" => Ok(Auth::Bearer),
        _ => Err("expected none, basic or bearer".to_owned()),
    }
}

fn account(text: &str) -> Result<AccountSpec, String> {
    let (user, password) = text.split_once(':').ok_or("expected user:password")?;
    Ok(AccountSpec { user: user.to_owned(), password: password.to_owned(), repos: vec!["*".to_owned()] })
}
