//! LZO1X, decoded.
//!
//! A stream is a row of instructions: copy literals from the input, or copy a match from what was decoded before. After a match come up to three
//! literals, whose number is in the match's last bits; how many there were decides what the next instruction below 16 means.

/// Decodes `input` to the end of `output`, which takes no more than `most` bytes of it; `None` if the stream is corrupt, or longer.
pub(super) fn decode(input: &[u8], output: &mut Vec<u8>, most: usize) -> Option<()> {
    let mut stream = Stream { input, begun: output.len(), most: output.len().checked_add(most)?, output };
    let mut before = Before::Nothing;
    if let Some(&first @ 18..) = input.first() {
        stream.byte()?;
        let count = usize::from(first) - 17;
        stream.literals(count)?;
        before = if count < 4 { Before::Few } else { Before::Many };
    }
    loop {
        let code = stream.byte()?;
        let bits = usize::from(code);
        let (length, distance, last) = match code {
            0..16 if before == Before::Nothing => {
                let length = 3 + stream.length(bits, 15)?;
                stream.literals(length)?;
                before = Before::Many;
                continue;
            }
            0..16 => {
                let (length, nearest) = if before == Before::Few { (2, 1) } else { (3, 2049) };
                (length, nearest + (bits >> 2) + (usize::from(stream.byte()?) << 2), bits)
            }
            16..32 => {
                let length = 2 + stream.length(bits & 7, 7)?;
                let far = stream.two_bytes()?;
                let distance = ((bits & 8) << 11) + (far >> 2);
                if distance == 0 {
                    return (length == 3 && stream.input.is_empty()).then_some(());
                }
                (length, 16384 + distance, far)
            }
            32..64 => {
                let length = 2 + stream.length(bits & 31, 31)?;
                let far = stream.two_bytes()?;
                (length, 1 + (far >> 2), far)
            }
            64.. => {
                let distance = 1 + (bits >> 2 & 7) + (usize::from(stream.byte()?) << 3);
                ((bits >> 5) + 1, distance, bits)
            }
        };
        stream.matching(length, distance)?;
        let count = last & 3;
        stream.literals(count)?;
        before = if count == 0 { Before::Nothing } else { Before::Few };
    }
}

/// Which literals came before an instruction.
#[derive(PartialEq)]
enum Before {
    Nothing,
    /// Up to three.
    Few,
    Many,
}

struct Stream<'a> {
    input: &'a [u8],
    output: &'a mut Vec<u8>,
    begun: usize,
    most: usize,
}

impl Stream<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (&byte, rest) = self.input.split_first()?;
        self.input = rest;
        Some(byte)
    }

    fn two_bytes(&mut self) -> Option<usize> {
        let (&bytes, rest) = self.input.split_first_chunk()?;
        self.input = rest;
        Some(u16::from_le_bytes(bytes).into())
    }

    /// A length that stands in the instruction, or if it is 0, as `most` and what follows: 255 for each zero byte, and a last byte.
    fn length(&mut self, bits: usize, most: usize) -> Option<usize> {
        if bits != 0 {
            return Some(bits);
        }
        let mut length = most;
        loop {
            match self.byte()? {
                0 => length += 255,
                byte => return Some(length + usize::from(byte)),
            }
        }
    }

    fn literals(&mut self, count: usize) -> Option<()> {
        let (literals, rest) = self.input.split_at_checked(count)?;
        self.room(count)?;
        self.output.extend_from_slice(literals);
        self.input = rest;
        Some(())
    }

    fn matching(&mut self, length: usize, distance: usize) -> Option<()> {
        self.room(length)?;
        let start = self.output.len().checked_sub(distance).filter(|&start| start >= self.begun)?;
        // A match may reach into itself, and repeats then. Each round doubles what there is of it.
        let mut left = length;
        while left > 0 {
            let part = left.min(self.output.len() - start);
            self.output.extend_from_within(start..start + part);
            left -= part;
        }
        Some(())
    }

    fn room(&self, count: usize) -> Option<()> {
        (count <= self.most - self.output.len()).then_some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(input: &[u8], most: usize) -> Option<Vec<u8>> {
        let mut output = Vec::new();
        decode(input, &mut output, most).map(|()| output)
    }

    #[test]
    fn literals_and_matches() {
        let end = [0x11, 0, 0];
        assert_eq!(decoded(&end, 0).unwrap(), b"");
        // Five literals, then four bytes from two back with one literal after them.
        let stream = [&[22][..], b"hello", &[0x60 | 1 << 2 | 1, 0], b"!", &end].concat();
        assert_eq!(decoded(&stream, 100).unwrap(), b"hellololo!");
        assert_eq!(decoded(&stream, 10).unwrap(), b"hellololo!");
        assert_eq!(decoded(&stream, 9), None);
        // A match that repeats one byte 2 + 31 + 255 + 7 times.
        let stream = [&[18][..], b"a", &[0x20, 0, 7, 0, 0], &end].concat();
        assert_eq!(decoded(&stream, 1000).unwrap(), [b'a'; 296]);
        for bad in [&b""[..], &[0x11], &[22, 1], &[0x40, 0, 0x11, 0, 0], &[18, b'a', 0x44, 0, 0x11, 0, 0], &[0, 0, 0, 0]] {
            assert_eq!(decoded(bad, 100), None, "{bad:?}");
        }
    }
}
