use std::fs::File;
use std::io;
use std::path::PathBuf;

use cache::Shelf;
use oci::Digest;

use crate::runtime::{Runtime, RuntimeKind};
use crate::settings::Settings;

/// containerd's content store, read and never written. A file appears under its digest by rename
/// once it is whole, and never changes.
#[derive(Debug, Clone)]
pub struct ContentStore {
    blobs: PathBuf,
    keeps: bool,
}

impl ContentStore {
    /// That of the first containerd among the runtimes, if there is one.
    pub fn find(settings: &Settings, runtimes: &[Runtime]) -> Option<ContentStore> {
        runtimes.iter().find_map(|runtime| match &runtime.kind {
            RuntimeKind::Containerd(config) => Some(ContentStore {
                blobs: settings.on_host(&config.content().join("blobs")),
                keeps: !config.discard_unpacked_layers,
            }),
            RuntimeKind::Crio => None,
        })
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.blobs.join(digest.algorithm().as_str()).join(digest.hex())
    }
}

impl Shelf for ContentStore {
    fn open(&self, digest: &Digest) -> io::Result<Option<File>> {
        match File::open(self.path(digest)) {
            Ok(file) if file.metadata()?.is_file() => Ok(Some(file)),
            Ok(_) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Where containerd throws layers away once they are unpacked, nothing is there to stay.
    fn keeps(&self, digest: &Digest) -> bool {
        self.keeps && self.path(digest).is_file()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Read;

    use super::*;
    use crate::{Running, detect_by_files};

    fn host(config: &str) -> tempfile::TempDir {
        let host = tempfile::tempdir().expect("a folder");
        fs::create_dir_all(host.path().join("etc/containerd")).expect("a folder");
        fs::write(host.path().join("etc/containerd/config.toml"), config).expect("a file");
        host
    }

    fn store(host: &tempfile::TempDir) -> ContentStore {
        let runtimes = detect_by_files(host.path(), &Running::default()).expect("a configuration");
        ContentStore::find(&Settings::new(host.path()), &runtimes).expect("containerd")
    }

    #[test]
    fn blobs_are_found_below_the_configured_root() {
        let host = host("version = 3\nroot = \"/data/containerd\"\n");
        let digest = Digest::sha256(b"layer");
        let folder = host.path().join("data/containerd/io.containerd.content.v1.content/blobs/sha256");
        fs::create_dir_all(&folder).expect("a folder");
        let store = store(&host);
        assert!(store.open(&digest).expect("no error").is_none() && !store.keeps(&digest));
        fs::write(folder.join(digest.hex()), "layer").expect("a file");
        let mut text = String::new();
        store.open(&digest).expect("no error").expect("a file").read_to_string(&mut text).expect("its text");
        assert_eq!(text, "layer");
        assert!(store.keeps(&digest));
    }

    #[test]
    fn what_is_discarded_is_not_kept() {
        let host = host("version = 3\n[plugins.\"io.containerd.cri.v1.images\"]\ndiscard_unpacked_layers = true\n");
        let digest = Digest::sha256(b"layer");
        let folder = host.path().join("var/lib/containerd/io.containerd.content.v1.content/blobs/sha256");
        fs::create_dir_all(&folder).expect("a folder");
        fs::write(folder.join(digest.hex()), "layer").expect("a file");
        let store = store(&host);
        assert!(store.open(&digest).expect("no error").is_some() && !store.keeps(&digest));
    }
}
