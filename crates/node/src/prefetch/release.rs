use std::path::Path;

use crate::cri::{CriError, Marks};
use crate::runtime::{RuntimeKind, detect};
use crate::settings::under;

/// Takes off all pins that larder has set on a host's images, and what it remembers of them; gives how many there were. The images stay.
/// Cancelled, some may be left.
///
/// # Errors
/// The runtime's configuration cannot be read, or it does not do it.
pub async fn release(host_root: &Path) -> Result<usize, ReleaseError> {
    let runtimes = detect(host_root).await?;
    // Of others nothing is remembered.
    let containerd = runtimes.iter().find(|runtime| matches!(runtime.kind, RuntimeKind::Containerd(_)));
    let Some(containerd) = containerd else { return Ok(0) };
    let marks = Marks::of_containerd(&under(host_root, &containerd.socket))?;
    let mut pins = 0;
    for (id, remembered) in marks.all(&[]).await? {
        if remembered.mark.is_some() {
            marks.set(&id, None, false, false).await?;
            pins += 1;
        }
        marks.forget_use(&id).await?;
    }
    Ok(pins)
}

/// Why pins are left.
#[derive(Debug, thiserror::Error)]
pub enum ReleaseError {
    /// It is not known which runtimes there are.
    #[error(transparent)]
    Unknown(#[from] crate::Error),
    /// The runtime does not do it.
    #[error("the pins of images cannot be taken off: {0}")]
    Runtime(#[from] CriError),
}
