use oci::{Digest, Image, Reference};

/// The longest readable part of a name.
const READABLE: usize = 40;

/// How many hexadecimal digits of an image's hash are in a name: nobody finds two images that share them.
const HASH: usize = 20;

/// What the CachedImage of an image is called: something of the image that people recognize, and what tells it from all others. It is
/// always the same.
pub fn cached_image_name(image: &Image) -> String {
    let repository = image.name.repository.as_str();
    let last = repository.rsplit('/').next().unwrap_or(repository);
    let readable = match &image.reference {
        Reference::Tag(tag) => format!("{last}-{}", tag.as_str()),
        Reference::Digest(_) => last.to_owned(),
    };
    let mut name = String::new();
    for c in readable.chars().map(|c| c.to_ascii_lowercase()).take(READABLE) {
        let c = if c.is_ascii_alphanumeric() { c } else { '-' };
        if c != '-' || !name.ends_with('-') {
            name.push(c);
        }
    }
    let name = name.trim_matches('-');
    let hash = Digest::sha256(image.to_string().as_bytes()).hex();
    format!("{name}{}{}", if name.is_empty() { "" } else { "-" }, &hash[..HASH])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(image: &str) -> String {
        cached_image_name(&image.parse().unwrap())
    }

    #[test]
    fn names_are_readable_and_what_objects_may_be_called() {
        let digest = format!("ghcr.io/a/b@sha256:{}", "a".repeat(64));
        for (image, readable) in [
            ("docker.io/library/nginx:1.27", "nginx-1-27-"),
            ("ghcr.io/shop/my__app:V1__2", "my-app-v1-2-"),
            ("reg.local:5000/x:_", "x-"),
            (&digest, "b-"),
        ] {
            let name = name(image);
            assert!(name.starts_with(readable) && name.len() == readable.len() + HASH, "{name}");
        }
        let long = name(&format!("ghcr.io/{}:{}", "a".repeat(200), "b".repeat(128)));
        assert_eq!(long.len(), READABLE + 1 + HASH);
    }

    #[test]
    fn no_two_images_have_one_name() {
        assert_ne!(name("ghcr.io/a/b:1"), name("ghcr.io/c/b:1"));
        assert_ne!(name("ghcr.io/a/b:1-2"), name("ghcr.io/a/b:1.2"));
        assert_eq!(name("docker.io/nginx:1"), name("docker.io/library/nginx:1"));
    }
}
