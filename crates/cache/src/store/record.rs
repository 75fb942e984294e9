use std::path::{Path, PathBuf};

use oci::{Digest, Name, Tag};

/// A small piece of state of one repository.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Record {
    /// The repository.
    pub name: Name,
    /// What the record says of it.
    pub kind: RecordKind,
}

/// What a record says of its repository.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RecordKind {
    /// A manifest is in it; the value is its media type.
    Manifest(Digest),
    /// A blob is in it; the value is empty.
    Blob(Digest),
    /// What a tag was when it was last asked for.
    Tag(Tag),
    /// A list that was fetched, by the digest of its query.
    Document(Digest),
    /// The origin gave something of it to anyone; the value says when.
    Public,
    /// The origin gave something of it to the upstream's own credential, which is everybody's; the value says when, and to which account.
    Shared,
    /// The bytes of a blob or manifest came from its registry, whichever the repository; the value is empty.
    Origin(Digest),
}

impl Record {
    /// A record of a repository.
    pub fn new(name: &Name, kind: RecordKind) -> Record {
        Record { name: name.clone(), kind }
    }

    /// Where the record lies below the store's folder. Parts that begin with `_` cannot be part of a repository's name.
    pub(super) fn path(&self) -> PathBuf {
        let mut path = Path::new("repositories").join(self.name.registry.as_str());
        if !matches!(self.kind, RecordKind::Origin(_)) {
            path.push(self.name.repository.as_str());
        }
        let by_digest = |path: &mut PathBuf, kind, digest: &Digest| {
            path.push(kind);
            path.push(digest.algorithm().as_str());
            path.push(digest.hex());
        };
        match &self.kind {
            RecordKind::Manifest(digest) => by_digest(&mut path, "_manifests", digest),
            RecordKind::Blob(digest) => by_digest(&mut path, "_blobs", digest),
            RecordKind::Document(digest) => by_digest(&mut path, "_documents", digest),
            RecordKind::Tag(tag) => {
                path.push("_tags");
                path.push(tag.as_str());
            }
            RecordKind::Public => path.push("_public"),
            RecordKind::Shared => path.push("_shared"),
            RecordKind::Origin(digest) => by_digest(&mut path, "_blobs", digest),
        }
        path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_do_not_meet() {
        let name = Name::parse("reg.local:5000/a/b").unwrap();
        let digest = Digest::sha256(b"x");
        let path = |kind| Record::new(&name, kind).path().display().to_string();
        assert_eq!(path(RecordKind::Public), "repositories/reg.local:5000/a/b/_public");
        assert_eq!(path(RecordKind::Shared), "repositories/reg.local:5000/a/b/_shared");
        assert_eq!(path(RecordKind::Tag("v1".parse().unwrap())), "repositories/reg.local:5000/a/b/_tags/v1");
        assert_eq!(
            path(RecordKind::Blob(digest)),
            format!("repositories/reg.local:5000/a/b/_blobs/sha256/{}", digest.hex())
        );
        assert_eq!(
            path(RecordKind::Origin(digest)),
            format!("repositories/reg.local:5000/_blobs/sha256/{}", digest.hex())
        );
    }
}
