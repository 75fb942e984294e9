use std::str::FromStr;

use oci::Image;

use super::section::textual;

/// An image that stays in the store.
pub struct Pin(pub Image);

impl FromStr for Pin {
    type Err = String;

    fn from_str(text: &str) -> Result<Pin, String> {
        text.parse()
            .map(Pin)
            .map_err(|error| format!("{text:?}: {error}; write it like \"docker.io/library/alpine:3.20\""))
    }
}

textual!(Pin: "an image such as \"docker.io/library/alpine:3.20\"");
