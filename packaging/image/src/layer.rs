use std::io::{self, Write};
use std::path::PathBuf;

use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

use crate::root::Entry;

/// A layer, compressed.
pub(crate) struct Layer {
    /// The compressed archive.
    pub(crate) bytes: Vec<u8>,
    /// The digest of the archive itself.
    pub(crate) diff_id: String,
}

impl Layer {
    /// Of these entries, in their order.
    pub(crate) fn of(entries: &[(PathBuf, Entry)]) -> io::Result<Layer> {
        let mut archive = Vec::new();
        let mut builder = Builder::new(&mut archive);
        for (path, entry) in entries {
            let (header, content): (Header, &[u8]) = match entry {
                Entry::Folder(mode, owner) => (header(EntryType::Directory, *mode, *owner, 0), &[]),
                Entry::File(mode, content) => (header(EntryType::Regular, *mode, 0, content.len() as u64), content),
            };
            append(&mut builder, header, path, content)?;
        }
        builder.finish()?;
        drop(builder);
        let mut compressed = GzEncoder::new(Vec::new(), Compression::default());
        compressed.write_all(&archive)?;
        Ok(Layer { bytes: compressed.finish()?, diff_id: digest(&archive) })
    }
}

/// The header of an entry, at the beginning of time.
pub(crate) fn header(kind: EntryType, mode: u32, owner: u32, size: u64) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(owner.into());
    header.set_gid(owner.into());
    header.set_mtime(0);
    header.set_size(size);
    header
}

/// Adds an entry.
pub(crate) fn append<W: Write>(
    builder: &mut Builder<W>,
    mut header: Header,
    path: impl AsRef<std::path::Path>,
    content: &[u8],
) -> io::Result<()> {
    builder.append_data(&mut header, path, content)
}

/// As images write digests.
pub(crate) fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold("sha256:".to_owned(), |text, byte| text + &format!("{byte:02x}"))
}
