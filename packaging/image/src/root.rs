use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// The user that larder is unless a pod says otherwise: nobody on the machine.
pub(crate) const USER: u32 = 65532;

/// A program with what it is linked with.
pub struct Program {
    /// The architecture, by the name that images use.
    pub architecture: &'static str,
    binary: Vec<u8>,
    libraries: Vec<(PathBuf, Vec<u8>)>,
}

impl Program {
    /// Reads a program and, as its own loader tells, the libraries that it is linked with: for another architecture than this
    /// machine's, it must be linked statically.
    ///
    /// # Errors
    /// It is no program of Linux, or a library cannot be found or read.
    pub fn read(path: &Path) -> Result<Program> {
        let binary = read(path)?;
        let architecture = architecture(&binary).with_context(|| path.display().to_string())?;
        let listed = Command::new("ldd").arg(path).output().context("cannot run ldd")?;
        let (text, complaint) = (String::from_utf8_lossy(&listed.stdout), String::from_utf8_lossy(&listed.stderr));
        let alone = "not a dynamic executable";
        let mut libraries = Vec::new();
        if listed.status.success() {
            for library in libraries_in(&text)? {
                libraries.push((library.to_owned(), read(library)?));
            }
        } else if !text.contains(alone) && !complaint.contains(alone) {
            bail!("ldd {}: {}", path.display(), complaint.trim());
        }
        libraries.sort();
        Ok(Program { architecture, binary, libraries })
    }
}

/// The files among what `ldd` prints.
fn libraries_in(listed: &str) -> Result<Vec<&Path>> {
    if let Some(line) = listed.lines().find(|line| line.contains("not found")) {
        bail!("a library is missing: {}", line.trim());
    }
    Ok(listed
        .lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
        .map(Path::new)
        .collect())
}

/// What an ELF file says that it runs on.
fn architecture(binary: &[u8]) -> Result<&'static str> {
    if binary.get(..4) != Some(b"\x7fELF") {
        bail!("is no program of Linux");
    }
    match binary.get(18..20) {
        Some([0x3e, 0]) => Ok("amd64"),
        Some([0xb7, 0]) => Ok("arm64"),
        Some([0xf3, 0]) => Ok("riscv64"),
        _ => bail!("is for a processor that larder is not built for"),
    }
}

/// What is in a file system.
pub(crate) enum Entry {
    /// A folder, with its mode and owner.
    Folder(u32, u32),
    /// A file, with its mode.
    File(u32, Vec<u8>),
}

/// The file system of the image, in two layers.
pub struct Root {
    pub(crate) architecture: &'static str,
    /// What changes seldom: libraries, authorities, who is who.
    pub(crate) base: Vec<(PathBuf, Entry)>,
    /// larder.
    pub(crate) program: Vec<(PathBuf, Entry)>,
}

impl Root {
    /// Puts together what larder needs. `authorities` are the public ones that it believes, as PEM.
    ///
    /// # Errors
    /// They cannot be read, or are none.
    pub fn of(program: Program, authorities: &Path) -> Result<Root> {
        let pem = read(authorities)?;
        if !pem.windows(16).any(|window| window == b"BEGIN CERTIFICAT") {
            bail!("{} has no certificate in PEM", authorities.display());
        }
        let text = |text: String| Entry::File(0o644, text.into_bytes());
        let mut base: Vec<(PathBuf, Entry)> = vec![
            (
                "etc/passwd".into(),
                text(format!("root:x:0:0:root:/:/\nlarder:x:{USER}:{USER}:larder:/var/lib/larder:/\n")),
            ),
            ("etc/group".into(), text(format!("root:x:0:\nlarder:x:{USER}:\n"))),
            // Without it, the C library asks the name server before /etc/hosts.
            ("etc/nsswitch.conf".into(), text("hosts: files dns\n".to_owned())),
            ("etc/ssl/certs/ca-certificates.crt".into(), Entry::File(0o644, pem)),
            ("tmp".into(), Entry::Folder(0o1777, 0)),
            // A volume that is mounted here without an owner of its own takes over this one.
            ("var/lib/larder".into(), Entry::Folder(0o700, USER)),
        ];
        let inside = |path: PathBuf| path.strip_prefix("/").map(Path::to_owned).unwrap_or(path);
        base.extend(program.libraries.into_iter().map(|(path, bytes)| (inside(path), Entry::File(0o755, bytes))));
        let program_files = vec![("usr/local/bin/larder".into(), Entry::File(0o755, program.binary))];
        Ok(Root { architecture: program.architecture, base: with_folders(base), program: with_folders(program_files) })
    }
}

/// Adds the folders that entries are in, and sorts so that each comes before what is in it.
fn with_folders(mut entries: Vec<(PathBuf, Entry)>) -> Vec<(PathBuf, Entry)> {
    let mut missing = Vec::new();
    for (path, _) in &entries {
        for folder in path.ancestors().skip(1).filter(|folder| !folder.as_os_str().is_empty()) {
            if !missing.iter().any(|other| other == folder) && !entries.iter().any(|(path, _)| path == folder) {
                missing.push(folder.to_owned());
            }
        }
    }
    entries.extend(missing.into_iter().map(|folder| (folder, Entry::Folder(0o755, 0))));
    entries.sort_by(|(one, _), (other, _)| one.cmp(other));
    entries
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_library_is_named() {
        let listed = "\tlinux-vdso.so.1 (0x1)\n\tlibx.so.1 => not found\n";
        assert!(libraries_in(listed).unwrap_err().to_string().contains("libx.so.1"));
        let listed = "\tlinux-vdso.so.1 (0x1)\n\tlibc.so.6 => /lib/libc.so.6 (0x2)\n\t/lib64/ld.so (0x3)\n";
        assert_eq!(libraries_in(listed).unwrap(), [Path::new("/lib/libc.so.6"), Path::new("/lib64/ld.so")]);
    }

    #[test]
    fn the_processor_is_read_from_the_program() {
        let mut head = b"\x7fELF\x02\x01\x01".to_vec();
        head.resize(18, 0);
        assert_eq!(architecture(&[&head[..], &[0xb7, 0]].concat()).unwrap(), "arm64");
        assert!(architecture(&[&head[..], &[0x08, 0]].concat()).is_err());
        assert!(architecture(b"#!/bin/sh\n").is_err());
    }

    #[test]
    fn folders_come_before_what_is_in_them() {
        let file = |path: &str| (PathBuf::from(path), Entry::File(0o644, Vec::new()));
        let paths = |entries: &[(PathBuf, Entry)]| {
            entries.iter().map(|(path, _)| path.display().to_string()).collect::<Vec<_>>()
        };
        let entries = with_folders(vec![file("b/c/d"), file("a/x"), ("b".into(), Entry::Folder(0o700, 1))]);
        assert_eq!(paths(&entries), ["a", "a/x", "b", "b/c", "b/c/d"]);
        assert!(matches!(entries[2].1, Entry::Folder(0o700, 1)), "what is given stays");
    }
}
