//! Sets of extended attributes, which inodes may share.

use std::ffi::CString;

use super::metadata::{Metadata, Position};
use super::superblock::{Superblock, u32_at, u64_at};
use super::{invalid, limit};
use crate::error::Result;
use crate::unpack::options::Limits;

/// In an attribute's type: the value lies elsewhere, and stands here as a reference.
const ELSEWHERE: u16 = 1 << 8;
const PREFIXES: [&[u8]; 3] = [b"user.", b"trusted.", b"security."];

/// The attribute sets of an image.
#[derive(Debug, Clone, Copy)]
pub(super) struct Xattrs {
    /// Where names and values begin.
    values: u64,
    sets: u32,
    /// Where the list of the blocks begins that say where a set lies.
    list: u64,
}

impl Xattrs {
    /// Finds them; `None` in an image without any.
    pub(super) fn find(metadata: &Metadata, superblock: &Superblock) -> Result<Option<Self>> {
        let Some(table) = superblock.xattrs else { return Ok(None) };
        let header: [u8; 16] = metadata.input().array(table)?;
        Ok(Some(Xattrs { values: u64_at(&header, 0), sets: u32_at(&header, 8), list: table.saturating_add(16) }))
    }

    /// The attributes of a set, in its order.
    pub(super) fn set(&self, metadata: &mut Metadata, set: u32, limits: &Limits) -> Result<Vec<(CString, Vec<u8>)>> {
        if set >= self.sets {
            return Err(invalid("its attributes are not in the image"));
        }
        let mut cursor = metadata.in_table(self.list, set, 16)?;
        let mut position = Position::new(self.values, cursor.u64()?);
        let count = cursor.u32()?;
        let mut xattrs = Vec::new();
        let mut sum = 0u64;
        // Also what has neither name nor value costs something.
        let mut count_bytes = |bytes: usize| {
            sum = sum.saturating_add(bytes as u64 + 8);
            if sum > limits.header.bytes() { Err(limit("the attributes of an entry exceed", limits.header)) } else { Ok(()) }
        };
        for _ in 0..count {
            let mut cursor = metadata.at(position)?;
            let kind = cursor.u16()?;
            let length = cursor.u16()?.into();
            count_bytes(length)?;
            let prefix = PREFIXES.get(usize::from(kind & !ELSEWHERE));
            let prefix = prefix.ok_or_else(|| invalid("an attribute's namespace is unknown"))?;
            let name = [prefix, &cursor.bytes(length)?[..]].concat();
            let name = CString::new(name).map_err(|_| invalid("an attribute's name holds a NUL byte"))?;
            let length = cursor.u32()? as usize;
            let value = if kind & ELSEWHERE == 0 {
                count_bytes(length)?;
                let value = cursor.bytes(length)?;
                position = cursor.position();
                value
            } else {
                if length != 8 {
                    return Err(invalid("the reference to an attribute's value is malformed"));
                }
                let reference = cursor.u64()?;
                position = cursor.position();
                let mut cursor = metadata.at(Position::new(self.values, reference))?;
                let length = cursor.u32()? as usize;
                count_bytes(length)?;
                cursor.bytes(length)?
            };
            xattrs.push((name, value));
        }
        Ok(xattrs)
    }
}
