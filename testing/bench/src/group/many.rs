use std::fs;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::memory::{REST, peak};
use super::{Bench, or_without};
use crate::client;
use crate::figure::{Figure, Goal, Unit};
use crate::server::{Kind, Server, Target};

const REPOSITORY: &str = "bench/many";
const BLOBS: u64 = 100_000;
const MIB: f64 = (1u64 << 20) as f64;

/// A store with very many blobs.
pub(super) fn run(bench: &mut Bench) -> Result<Vec<Figure>> {
    let mut memory = Figure::new("resident memory, 100,000 blobs in the store, MiB", Unit::Mib, &[Goal::Limit(40.0)]);
    let mut start =
        Figure::new("start to ready, 100,000 blobs in the store, ms", Unit::Milliseconds, &[Goal::Limit(1000.0)]);
    bench.origin.blob(REPOSITORY, content(0));
    let mut kinds = Vec::new();
    for kind in bench.programs.kinds() {
        if kind.is_cache() && or_without(kind, fill(bench, kind))?.is_some() {
            kinds.push(kind);
        }
    }
    for repetition in 0..bench.repetitions {
        for kind in bench.turns(repetition, |kind| kinds.contains(&kind)) {
            let Some(server) = or_without(kind, bench.start(kind, "many"))? else { continue };
            start.add(repetition, kind, server.ready_after.as_secs_f64() * 1e3, None);
            memory.add(repetition, kind, peak(&server.process, REST) / MIB, None);
            or_without(kind, check(&server))?;
        }
    }
    Ok(vec![memory, start])
}

fn content(number: u64) -> String {
    format!("{number:064}")
}

fn hex(number: u64) -> String {
    oci::Digest::sha256(content(number).as_bytes()).hex().to_string()
}

/// Has a server fetch one blob, and makes the others of the files that it keeps of that one. To fetch so many would take
/// longer than all other figures.
fn fill(bench: &Bench, kind: Kind) -> Result<()> {
    let pattern = hex(0);
    let folder = {
        let server = bench.start(kind, "many")?;
        server.warm(&Target::blob(REPOSITORY, &format!("sha256:{pattern}")))?;
        bench.work().join(format!("many-{kind:?}"))
    };
    let mut files = Vec::new();
    find(&folder, &pattern, &mut files)?;
    if files.is_empty() {
        bail!("it keeps blobs in a way that is not understood");
    }
    let files: Vec<(PathBuf, String)> = files
        .into_iter()
        .map(|path| {
            let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            Ok((path, text))
        })
        .collect::<Result<_>>()?;
    for number in 1..BLOBS {
        let name = hex(number);
        for (path, text) in &files {
            let path = renamed(path, &pattern, &name);
            fs::create_dir_all(path.parent().context("files have a folder")?)?;
            fs::write(path, text.replace(&content(0), &content(number)).replace(&pattern, &name))?;
        }
    }
    check(&bench.start(kind, "many")?)
}

/// The files whose path names the digest.
fn find(folder: &Path, hex: &str, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            find(&path, hex, found)?;
        } else if path.to_string_lossy().contains(hex) {
            found.push(path);
        }
    }
    Ok(())
}

/// The path with another digest in it, and in a folder of the digest's first two digits.
fn renamed(path: &Path, from: &str, to: &str) -> PathBuf {
    let part = |part: Component<'_>| {
        let text = part.as_os_str().to_string_lossy();
        if text == from[..2] { to[..2].to_owned() } else { text.replace(from, to) }
    };
    path.components().map(part).collect()
}

/// That the server knows the blobs: the origin does not have them.
fn check(server: &Server) -> Result<()> {
    for number in [1, BLOBS / 2, BLOBS - 1] {
        let target = Target::blob(REPOSITORY, &format!("sha256:{}", hex(number)));
        client::get(server.address, &server.path(&target)).context("it does not know the blobs of its store")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_in_paths_are_exchanged() {
        let path = renamed(Path::new("/s/blobs/ab/abcd/data"), "abcd", "ef01");
        assert_eq!(path, Path::new("/s/blobs/ef/ef01/data"));
    }
}
