//! Just enough gzip (RFC 1952) and deflate (RFC 1951) to answer with a `Content-Encoding` that nobody asked for.

use bytes::Bytes;

use crate::source::Source;

const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];

/// Zero bytes per gzip member of a bomb: one literal and a whole number of the longest matches.
const MEMBER: u64 = 1 + 258 * 40_650;

/// `bytes` as a gzip member of stored blocks: the encoded body differs from the plain one, and decodes to it.
pub(crate) fn wrap(bytes: &[u8]) -> Bytes {
    let mut out = HEADER.to_vec();
    let mut blocks = bytes.chunks(0xffff).peekable();
    if blocks.peek().is_none() {
        out.extend([1, 0, 0, 0xff, 0xff]);
    }
    while let Some(block) = blocks.next() {
        out.push(u8::from(blocks.peek().is_none()));
        out.extend((block.len() as u16).to_le_bytes());
        out.extend((!(block.len() as u16)).to_le_bytes());
        out.extend(block);
    }
    out.extend(crc32(bytes.iter().copied()).to_le_bytes());
    out.extend((bytes.len() as u32).to_le_bytes());
    out.into()
}

/// A gzip stream that inflates to at least `bytes` zeros, and is about 1/158 of that itself.
pub(crate) fn bomb(bytes: u64) -> Source {
    let mut bits = Bits::default();
    bits.push(0b1, 1);
    bits.push(0b01, 2);
    bits.push_code(0x30, 8);
    for _ in 0..(MEMBER - 1) / 258 {
        bits.push_code(0b1100_0101, 8);
        bits.push_code(0, 5);
    }
    bits.push_code(0, 7);
    let mut member = HEADER.to_vec();
    member.extend(bits.finish());
    member.extend(crc32((0..MEMBER).map(|_| 0)).to_le_bytes());
    member.extend((MEMBER as u32).to_le_bytes());
    Source::repeated(Bytes::new(), member, bytes.div_ceil(MEMBER), Bytes::new())
}

#[derive(Default)]
struct Bits {
    out: Vec<u8>,
    held: u32,
    count: u32,
}

impl Bits {
    fn push(&mut self, value: u32, width: u32) {
        self.held |= value << self.count;
        self.count += width;
        while self.count >= 8 {
            self.out.push(self.held as u8);
            self.held >>= 8;
            self.count -= 8;
        }
    }

    /// Huffman codes go in with their highest bit first.
    fn push_code(&mut self, code: u32, width: u32) {
        self.push(code.reverse_bits() >> (32 - width), width);
    }

    fn finish(mut self) -> Vec<u8> {
        if self.count > 0 {
            self.out.push(self.held as u8);
        }
        self.out
    }
}

fn crc32(bytes: impl Iterator<Item = u8>) -> u32 {
    let table: [u32; 256] = std::array::from_fn(|index| {
        (0..8).fold(index as u32, |value, _| if value & 1 == 1 { 0xedb8_8320 ^ (value >> 1) } else { value >> 1 })
    });
    !bytes.fold(!0u32, |crc, byte| table[((crc ^ u32::from(byte)) & 0xff) as usize] ^ (crc >> 8))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};

    use super::*;

    fn gunzip(packed: &[u8]) -> Vec<u8> {
        let mut child = Command::new("gzip").arg("-dc").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let packed = packed.to_vec();
        let writer = std::thread::spawn(move || stdin.write_all(&packed).unwrap());
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap();
        assert!(output.status.success());
        output.stdout
    }

    #[test]
    fn a_wrapped_body_decodes_to_itself() {
        let body: Vec<u8> = (0..200_000u32).map(|n| n as u8).collect();
        assert_eq!(gunzip(&wrap(&body)), body);
        assert_eq!(gunzip(&wrap(b"")), b"");
    }

    #[test]
    fn a_bomb_inflates() {
        let bomb = bomb(20 << 20);
        assert!(bomb.len() < 300_000, "{}", bomb.len());
        let inflated = gunzip(&bomb.to_bytes());
        assert!(inflated.len() as u64 >= 20 << 20);
        assert!(inflated.iter().all(|byte| *byte == 0));
    }
}
