use crate::{Image, ImageError};

impl Image {
    /// Reads an image as pods name it: what the runtime would fill in is filled in, docker.io and `latest`.
    ///
    /// # Errors
    /// It is none, whatever is filled in.
    pub fn in_short(text: &str) -> Result<Image, ImageError> {
        let text = text.trim();
        let with_registry = match text.parse::<Image>() {
            Err(ImageError::NoRegistry) => format!("docker.io/{text}"),
            _ => text.to_owned(),
        };
        match with_registry.parse() {
            Err(ImageError::NoReference) => format!("{with_registry}:latest").parse(),
            read => read,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_pod_may_leave_out_is_filled_in() {
        let digest = format!("sha256:{}", "a".repeat(64));
        for (text, written) in [
            ("nginx", "docker.io/library/nginx:latest"),
            ("nginx:1.27", "docker.io/library/nginx:1.27"),
            ("shop/api", "docker.io/shop/api:latest"),
            ("ghcr.io/shop/api", "ghcr.io/shop/api:latest"),
            ("reg.local:5000/api", "reg.local:5000/api:latest"),
            ("localhost/api:2", "localhost/api:2"),
            (&format!("nginx@{digest}"), &format!("docker.io/library/nginx@{digest}")),
            (" ghcr.io/shop/api:3\n", "ghcr.io/shop/api:3"),
        ] {
            assert_eq!(Image::in_short(text).unwrap().to_string(), written, "{text}");
        }
    }

    #[test]
    fn what_is_no_image_is_none() {
        for text in ["", "UPPER/case:1", "ghcr.io/a:", "ghcr.io/a@x", "a b", "$(IMAGE)"] {
            assert!(Image::in_short(text).is_err(), "{text}");
        }
    }
}
