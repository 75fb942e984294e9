//! The little of the tar format that image layers need.

use std::io::{self, Write};

const BLOCK: usize = 512;

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind<'a> {
    File { size: u64 },
    Folder,
    Symlink { target: &'a str },
}

/// Writes a header. The content of a file follows it, and then [`pad`].
pub(crate) fn header(out: &mut impl Write, path: &str, mode: u32, kind: &Kind<'_>) -> io::Result<()> {
    let mut block = [0; BLOCK];
    let (size, letter, target) = match kind {
        Kind::File { size } => (*size, b'0', ""),
        Kind::Folder => (0, b'5', ""),
        Kind::Symlink { target } => (0, b'2', *target),
    };
    put(&mut block, 0, 100, path)?;
    put(&mut block, 100, 8, &format!("{mode:07o}"))?;
    put(&mut block, 108, 8, "0000000")?;
    put(&mut block, 116, 8, "0000000")?;
    put(&mut block, 124, 12, &format!("{size:011o}"))?;
    // One fixed moment, so that equal contents give equal digests.
    put(&mut block, 136, 12, "14000000000")?;
    put(&mut block, 148, 8, "        ")?;
    block[156] = letter;
    put(&mut block, 157, 100, target)?;
    put(&mut block, 257, 8, "ustar\x0000")?;
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    put(&mut block, 148, 8, &format!("{sum:06o}\0 "))?;
    out.write_all(&block)
}

/// Fills up the last block of a file of that size.
pub(crate) fn pad(out: &mut impl Write, size: u64) -> io::Result<()> {
    let over = (size % BLOCK as u64) as usize;
    if over == 0 { Ok(()) } else { out.write_all(&[0; BLOCK][over..]) }
}

/// Ends the archive.
pub(crate) fn end(out: &mut impl Write) -> io::Result<()> {
    out.write_all(&[0; 2 * BLOCK])
}

fn put(block: &mut [u8; BLOCK], at: usize, length: usize, text: &str) -> io::Result<()> {
    if text.len() > length {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{text:?} does not fit in a tar header")));
    }
    block[at..at + text.len()].copy_from_slice(text.as_bytes());
    Ok(())
}
