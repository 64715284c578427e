//! lz4: frames of the current and of the legacy format, and skippable ones
//! ([format](https://github.com/lz4/lz4/blob/dev/doc/lz4_Frame_format.md)).

use std::hash::Hasher;

use lz4_flex::block::{decompress_into, decompress_into_with_dict};
use twox_hash::XxHash32;

use super::{Decode, Fault, Step};

const MAGIC: u32 = 0x184d_2204;
const LEGACY_MAGIC: u32 = 0x184c_2102;
/// The lowest four bits may be any.
const SKIPPABLE_MAGIC: u32 = 0x184d_2a50;
/// How far a linked block may look back, in bytes.
const WINDOW: usize = 64 << 10;
const LEGACY_BLOCK: usize = 8 << 20;
/// What a legacy block that does not compress takes at most: the format's bound.
const LEGACY_STORED: usize = LEGACY_BLOCK + LEGACY_BLOCK / 255 + 16;
/// Set in the length of a block that is stored as it is.
const STORED: u32 = 1 << 31;

/// What comes next in the image. It is gathered as a whole in [`Lz4::input`], which a block of 8 MiB bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Magic,
    /// The two bytes that say which fields the descriptor has.
    Flags,
    /// The rest of the descriptor.
    Descriptor {
        length: usize,
    },
    BlockLength,
    Block {
        length: usize,
        stored: bool,
    },
    ContentChecksum,
    SkipLength,
    Skip {
        left: u32,
    },
    LegacyLength,
    LegacyBlock {
        length: usize,
    },
}

/// What the descriptor of a frame says.
#[derive(Debug, Clone, Copy, Default)]
struct Frame {
    linked: bool,
    block_checksums: bool,
    content_checksum: bool,
    content_size: Option<u64>,
    block: usize,
}

pub(super) struct Lz4 {
    next: Next,
    input: Vec<u8>,
    /// What linked blocks look back at, [`WINDOW`] bytes, the last `history` of them valid; then the current block.
    output: Vec<u8>,
    history: usize,
    /// What of the current block has not been handed out.
    start: usize,
    end: usize,
    frame: Frame,
    flags: [u8; 2],
    content: u64,
    hasher: XxHash32,
}

impl Lz4 {
    pub(super) fn new() -> Self {
        Lz4 {
            next: Next::Magic,
            input: Vec::new(),
            output: Vec::new(),
            history: 0,
            start: WINDOW,
            end: WINDOW,
            frame: Frame::default(),
            flags: [0; 2],
            content: 0,
            hasher: XxHash32::with_seed(0),
        }
    }

    /// How many bytes of the image make up what comes next.
    fn wanted(&self) -> usize {
        match self.next {
            Next::Magic | Next::BlockLength | Next::ContentChecksum | Next::SkipLength | Next::LegacyLength => 4,
            Next::Flags => 2,
            Next::Descriptor { length } => length,
            Next::Block { length, .. } => length + if self.frame.block_checksums { 4 } else { 0 },
            Next::Skip { .. } => 0,
            Next::LegacyBlock { length } => length,
        }
    }

    /// Reads what has been gathered. `true` at the end of a frame.
    fn advance(&mut self) -> Result<bool, Fault> {
        self.next = match self.next {
            Next::Magic => self.magic()?,
            Next::Flags => self.flags()?,
            Next::Descriptor { .. } => self.descriptor()?,
            Next::BlockLength => {
                let length = self.number();
                match (length & !STORED) as usize {
                    0 if length == 0 => {
                        if self.frame.content_size.is_some_and(|size| size != self.content) {
                            return Err(corrupt("a frame has another length than it says"));
                        }
                        if !self.frame.content_checksum {
                            return Ok(true);
                        }
                        Next::ContentChecksum
                    }
                    length if length > self.frame.block => return Err(corrupt("a block is larger than its frame allows")),
                    size => Next::Block { length: size, stored: length & STORED != 0 },
                }
            }
            Next::Block { length, stored } => {
                self.block(length, stored)?;
                Next::BlockLength
            }
            Next::ContentChecksum => {
                if self.number() != self.hasher.finish_32() {
                    return Err(corrupt("the checksum of a frame is wrong"));
                }
                return Ok(true);
            }
            Next::SkipLength => Next::Skip { left: self.number() },
            Next::Skip { .. } => return Ok(true),
            Next::LegacyLength => match self.number() as usize {
                // The legacy format has no end marker: another frame may begin here.
                length if length > LEGACY_STORED => self.magic()?,
                0 => return Err(corrupt("a block is empty")),
                length => Next::LegacyBlock { length },
            },
            Next::LegacyBlock { length } => {
                self.reserve(LEGACY_BLOCK);
                let room = self.output.get_mut(WINDOW..WINDOW + LEGACY_BLOCK).unwrap_or_default();
                let written = decompress_into(&self.input[..length], room).map_err(Fault::corrupt)?;
                (self.start, self.end) = (WINDOW, WINDOW + written);
                Next::LegacyLength
            }
        };
        Ok(false)
    }

    /// The gathered bytes as a number.
    fn number(&self) -> u32 {
        self.input.first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes))
    }

    fn magic(&self) -> Result<Next, Fault> {
        match self.number() {
            MAGIC => Ok(Next::Flags),
            LEGACY_MAGIC => Ok(Next::LegacyLength),
            magic if magic & !0xf == SKIPPABLE_MAGIC => Ok(Next::SkipLength),
            _ => Err(corrupt("what follows a frame is none")),
        }
    }

    fn flags(&mut self) -> Result<Next, Fault> {
        self.flags = self.input.first_chunk().copied().unwrap_or_default();
        let [flags, block] = self.flags;
        if flags >> 6 != 1 || flags & 2 != 0 || block & 0x8f != 0 {
            return Err(Fault::Unsupported { uses: "another version of the format", remedy: RECOMPRESS });
        }
        if flags & 1 != 0 {
            return Err(Fault::Unsupported { uses: "a dictionary of its own", remedy: RECOMPRESS });
        }
        self.frame = Frame {
            linked: flags & 0x20 == 0,
            block_checksums: flags & 0x10 != 0,
            content_checksum: flags & 4 != 0,
            content_size: None,
            block: match block >> 4 {
                4 => 64 << 10,
                5 => 256 << 10,
                6 => 1 << 20,
                7 => 4 << 20,
                _ => return Err(corrupt("the block size is none")),
            },
        };
        Ok(Next::Descriptor { length: if flags & 8 != 0 { 9 } else { 1 } })
    }

    fn descriptor(&mut self) -> Result<Next, Fault> {
        let Some((&sum, fields)) = self.input.split_last() else { return Err(corrupt("a descriptor is empty")) };
        let mut hasher = XxHash32::with_seed(0);
        hasher.write(&self.flags);
        hasher.write(fields);
        if (hasher.finish_32() >> 8) as u8 != sum {
            return Err(corrupt("the checksum of a descriptor is wrong"));
        }
        self.frame.content_size = fields.first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
        self.reserve(self.frame.block);
        (self.start, self.end) = (WINDOW, WINDOW);
        (self.history, self.content, self.hasher) = (0, 0, XxHash32::with_seed(0));
        Ok(Next::BlockLength)
    }

    fn reserve(&mut self, block: usize) {
        if self.output.len() < WINDOW + block {
            self.output.resize(WINDOW + block, 0);
        }
    }

    fn block(&mut self, length: usize, stored: bool) -> Result<(), Fault> {
        let (block, checksum) = self.input.split_at(length);
        if let Some(sum) = checksum.first_chunk()
            && XxHash32::oneshot(0, block) != u32::from_le_bytes(*sum)
        {
            return Err(corrupt("the checksum of a block is wrong"));
        }
        if self.frame.linked {
            // The last block, which has been handed out, becomes what this one looks back at.
            let kept = (self.history + self.end - WINDOW).min(WINDOW);
            self.output.copy_within(self.end - kept..self.end, WINDOW - kept);
            self.history = kept;
        }
        let (window, room) = self.output.split_at_mut(WINDOW);
        let room = &mut room[..self.frame.block];
        let written = if stored {
            room[..length].copy_from_slice(block);
            length
        } else if self.frame.linked {
            decompress_into_with_dict(block, room, &window[WINDOW - self.history..]).map_err(Fault::corrupt)?
        } else {
            decompress_into(block, room).map_err(Fault::corrupt)?
        };
        if self.frame.content_checksum {
            self.hasher.write(&room[..written]);
        }
        self.content += written as u64;
        (self.start, self.end) = (WINDOW, WINDOW + written);
        Ok(())
    }
}

impl Decode for Lz4 {
    fn step(&mut self, input: &[u8], output: &mut [u8]) -> Result<Step, Fault> {
        let mut step = Step::default();
        loop {
            if self.start < self.end {
                let length = (self.end - self.start).min(output.len());
                output[..length].copy_from_slice(&self.output[self.start..self.start + length]);
                self.start += length;
                return Ok(Step { written: length, ..step });
            }
            let rest = &input[step.taken..];
            if let Next::Skip { left } = &mut self.next {
                let length = rest.len().min(*left as usize);
                *left -= length as u32;
                step.taken += length;
                if *left > 0 {
                    return Ok(step);
                }
            }
            let length = self.wanted().saturating_sub(self.input.len()).min(rest.len());
            self.input.extend_from_slice(&rest[..length]);
            step.taken += length;
            if self.input.len() < self.wanted() {
                let at_legacy_end = self.next == Next::LegacyLength && self.input.is_empty() && input.is_empty();
                return Ok(Step { ended: at_legacy_end, ..step });
            }
            let ended = self.advance()?;
            self.input.clear();
            if ended {
                return Ok(Step { ended: true, ..step });
            }
        }
    }

    fn restart(&mut self) -> Result<(), Fault> {
        self.next = Next::Magic;
        Ok(())
    }
}

const RECOMPRESS: &str = "compress the image again with `lz4`";

fn corrupt(message: &'static str) -> Fault {
    Fault::corrupt(message)
}
