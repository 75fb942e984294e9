use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use rustix::io::ReadWriteFlags;

/// Reads `length` bytes of a file from `offset` on, behind what `head` holds: what is in memory at once, as nearly all of
/// a piece is that just came in, and the rest on a thread that may wait for the disk.
pub(super) async fn read_behind(head: &[u8], file: &Arc<File>, offset: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; head.len() + length];
    buffer[..head.len()].copy_from_slice(head);
    let (file, mut at) = (file.clone(), head.len());
    while at < buffer.len() {
        let from = offset + (at - head.len()) as u64;
        match rustix::io::preadv2(&file, &mut [IoSliceMut::new(&mut buffer[at..])], from, ReadWriteFlags::NOWAIT) {
            Ok(0) | Err(_) => break,
            Ok(read) => at += read,
        }
    }
    if at == buffer.len() {
        return Ok(buffer);
    }
    let from = offset + (at - head.len()) as u64;
    let reading = tokio::task::spawn_blocking(move || file.read_exact_at(&mut buffer[at..], from).map(|()| buffer));
    reading.await.unwrap_or_else(|_| Err(io::Error::other("the program is ending")))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[tokio::test]
    async fn bytes_are_read_behind_a_head_and_not_beyond_the_end() {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(b"0123456789").expect("it is written");
        let file = Arc::new(file);
        assert_eq!(read_behind(b"head", &file, 2, 8).await.expect("it is there"), b"head23456789");
        assert_eq!(read_behind(b"", &file, 9, 1).await.expect("it is there"), b"9");
        let error = read_behind(b"", &file, 5, 6).await.expect_err("there are five");
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
