//! Reads netlink messages and attributes. Every length is checked against what is there.

use std::ffi::CStr;

use super::{HEADER, NESTED, aligned};

/// Bytes that are not netlink, or not what was expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// A message's length is less than its header, or more than what is there.
    #[error("a message has an impossible length")]
    Message,
    /// An attribute's length is less than its header, or more than what is there.
    #[error("an attribute has an impossible length")]
    Attribute,
    /// A value has another size than its type.
    #[error("a value has an unexpected size")]
    Value,
    /// An attribute that must be there is not.
    #[error("an attribute is missing")]
    Missing,
}

/// A message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message<'a> {
    /// Its type.
    pub kind: u16,
    /// Its flags.
    pub flags: u16,
    /// The sequence number of the request that it answers.
    pub seq: u32,
    /// What follows its header.
    pub payload: &'a [u8],
}

impl<'a> Message<'a> {
    /// The attributes behind a family's own header of `header` bytes.
    ///
    /// # Errors
    /// When the message is shorter than that.
    pub fn attrs_after(&self, header: usize) -> Result<Attrs<'a>, Malformed> {
        self.payload.get(aligned(header)..).map(attrs).ok_or(Malformed::Message)
    }
}

/// The messages in a datagram; ends after the first malformed one.
#[must_use]
pub fn messages(bytes: &[u8]) -> Messages<'_> {
    Messages { rest: bytes }
}

/// See [`messages`].
#[derive(Debug, Clone)]
pub struct Messages<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Messages<'a> {
    type Item = Result<Message<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let bytes = std::mem::take(&mut self.rest);
        let parse = || {
            let len = u32_at(bytes, 0)? as usize;
            let payload = bytes.get(HEADER..len)?;
            let message = Message {
                kind: u16_at(bytes, 4)?,
                flags: u16_at(bytes, 6)?,
                seq: u32_at(bytes, 8)?,
                payload,
            };
            Some((message, len))
        };
        let Some((message, len)) = parse() else { return Some(Err(Malformed::Message)) };
        // The last message's padding may be absent.
        self.rest = bytes.get(aligned(len)..).unwrap_or_default();
        Some(Ok(message))
    }
}

/// An attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attr<'a> {
    /// Its type, without flags.
    pub kind: u16,
    /// What it holds.
    pub bytes: &'a [u8],
}

impl<'a> Attr<'a> {
    fn array<const N: usize>(&self) -> Result<[u8; N], Malformed> {
        self.bytes.try_into().map_err(|_| Malformed::Value)
    }

    /// 32 bits, big endian.
    ///
    /// # Errors
    /// When it has not 4 bytes.
    pub fn be32(&self) -> Result<u32, Malformed> {
        self.array().map(u32::from_be_bytes)
    }

    /// 64 bits, big endian.
    ///
    /// # Errors
    /// When it has not 8 bytes.
    pub fn be64(&self) -> Result<u64, Malformed> {
        self.array().map(u64::from_be_bytes)
    }

    /// 32 bits in the machine's byte order.
    ///
    /// # Errors
    /// When it has not 4 bytes.
    pub fn u32(&self) -> Result<u32, Malformed> {
        self.array().map(u32::from_ne_bytes)
    }

    /// A text up to its NUL; what is not UTF-8 is replaced.
    ///
    /// # Errors
    /// When there is no NUL.
    pub fn text(&self) -> Result<String, Malformed> {
        let text = CStr::from_bytes_until_nul(self.bytes).map_err(|_| Malformed::Value)?;
        Ok(text.to_string_lossy().into_owned())
    }

    /// The attributes that it holds.
    #[must_use]
    pub fn attrs(&self) -> Attrs<'a> {
        attrs(self.bytes)
    }
}

/// The attributes in `bytes`; ends after the first malformed one.
#[must_use]
pub fn attrs(bytes: &[u8]) -> Attrs<'_> {
    Attrs { rest: bytes }
}

/// See [`attrs`].
#[derive(Debug, Clone)]
pub struct Attrs<'a> {
    rest: &'a [u8],
}

impl<'a> Attrs<'a> {
    /// The first attribute of the type `kind`.
    ///
    /// # Errors
    /// When there is none, or a malformed one before it.
    pub fn find_kind(&self, kind: u16) -> Result<Attr<'a>, Malformed> {
        for attr in self.clone() {
            let attr = attr?;
            if attr.kind == kind {
                return Ok(attr);
            }
        }
        Err(Malformed::Missing)
    }
}

impl<'a> Iterator for Attrs<'a> {
    type Item = Result<Attr<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let bytes = std::mem::take(&mut self.rest);
        let parse = || {
            let len = usize::from(u16_at(bytes, 0)?);
            // The two upper bits are flags (nested, network byte order).
            let kind = u16_at(bytes, 2)? & !(NESTED | NESTED >> 1);
            Some((Attr { kind, bytes: bytes.get(4..len)? }, len))
        };
        let Some((attr, len)) = parse() else { return Some(Err(Malformed::Attribute)) };
        self.rest = bytes.get(aligned(len)..).unwrap_or_default();
        Some(Ok(attr))
    }
}

/// What an acknowledgement, an error or the end of a list says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ack {
    /// The error's number, positive; 0: done.
    pub(super) errno: i32,
    pub(super) text: Option<String>,
    pub(super) offset: Option<u32>,
    pub(super) missing: Option<u32>,
}

impl Ack {
    pub(super) fn of(message: &Message<'_>) -> Result<Self, Malformed> {
        const TEXT: u16 = 1; // NLMSGERR_ATTR_MSG
        const OFFSET: u16 = 2; // NLMSGERR_ATTR_OFFS
        const MISSING: u16 = 5; // NLMSGERR_ATTR_MISS_TYPE

        let code = u32_at(message.payload, 0).ok_or(Malformed::Message)?.cast_signed();
        let mut ack = Self { errno: code.saturating_neg().max(0), text: None, offset: None, missing: None };
        if message.flags & libc::NLM_F_ACK_TLVS as u16 == 0 {
            return Ok(ack);
        }
        let mut start = 4;
        if message.kind == libc::NLMSG_ERROR as u16 {
            // The header of the request follows, and the rest of it unless capped.
            let request = u32_at(message.payload, 4).ok_or(Malformed::Message)? as usize;
            let capped = message.flags & libc::NLM_F_CAPPED as u16 != 0;
            let copied = if capped { HEADER } else { request.max(HEADER) };
            start = copied
                .checked_next_multiple_of(super::ALIGN)
                .and_then(|n| n.checked_add(4))
                .ok_or(Malformed::Message)?;
        }
        for attr in attrs(message.payload.get(start..).ok_or(Malformed::Message)?) {
            let attr = attr?;
            match attr.kind {
                TEXT => ack.text = Some(attr.text()?),
                OFFSET => ack.offset = Some(attr.u32()?),
                MISSING => ack.missing = Some(attr.u32()?),
                _ => {}
            }
        }
        Ok(ack)
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{Batch, Body};
    use super::*;

    /// Reads everything that can be read.
    fn read_all(bytes: &[u8]) {
        for message in messages(bytes).flatten() {
            let _ = Ack::of(&message);
            for header in [0, 4, 16, 17] {
                let Ok(found) = message.attrs_after(header) else { continue };
                let _ = found.find_kind(7);
                for attr in found.flatten() {
                    let _ = (attr.u32(), attr.be32(), attr.be64(), attr.text());
                    for inner in attr.attrs().flatten() {
                        let _ = inner.text();
                    }
                }
            }
        }
    }

    #[derive(Debug, Clone)]
    enum Tree {
        Leaf(u16, Vec<u8>),
        Node(u16, Vec<Tree>),
    }

    fn tree() -> impl Strategy<Value = Tree> {
        let kind = 0..0x3fff_u16;
        let leaf =
            (kind.clone(), prop::collection::vec(any::<u8>(), 0..40)).prop_map(|(k, b)| Tree::Leaf(k, b));
        leaf.prop_recursive(4, 32, 6, move |inner| {
            (kind.clone(), prop::collection::vec(inner, 0..6)).prop_map(|(k, t)| Tree::Node(k, t))
        })
    }

    fn write(body: &mut Body<'_>, tree: &Tree) {
        match tree {
            Tree::Leaf(kind, bytes) => body.attr(*kind, bytes),
            Tree::Node(kind, trees) => {
                body.nest(*kind, |body| trees.iter().for_each(|tree| write(body, tree)))
            }
        };
    }

    fn same(found: Attrs<'_>, trees: &[Tree]) -> bool {
        let found: Vec<_> = found.collect();
        found.len() == trees.len()
            && found.iter().zip(trees).all(|(attr, tree)| match (attr, tree) {
                (Ok(attr), Tree::Leaf(kind, bytes)) => attr.kind == *kind && attr.bytes == bytes,
                (Ok(attr), Tree::Node(kind, trees)) => attr.kind == *kind && same(attr.attrs(), trees),
                (Err(_), _) => false,
            })
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            read_all(&bytes);
        }

        #[test]
        fn damaged_messages_never_panic(
            trees in prop::collection::vec(tree(), 0..6),
            kind in prop_oneof![Just(2_u16), Just(3_u16), any::<u16>()],
            flags: u16,
            at: prop::sample::Index,
            byte: u8,
            cut: prop::sample::Index,
        ) {
            let mut batch = Batch::new();
            for _ in 0..2 {
                batch.push(kind, flags, |b| trees.iter().for_each(|tree| write(b, tree)));
            }
            let mut bytes = batch.as_bytes().to_vec();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            bytes.truncate(cut.index(bytes.len() + 1));
            read_all(&bytes);
        }

        #[test]
        fn what_is_written_is_read(trees in prop::collection::vec(tree(), 0..6), kind: u16, flags: u16) {
            let mut batch = Batch::new();
            for _ in 0..2 {
                batch.push(kind, flags, |b| {
                    b.raw(&[1, 2, 3, 4]);
                    trees.iter().for_each(|tree| write(b, tree));
                });
            }
            let found: Vec<_> = messages(batch.as_bytes()).collect::<Result<_, _>>().unwrap();
            prop_assert_eq!(found.len(), 2);
            for message in found {
                prop_assert_eq!(message.kind, kind);
                prop_assert_eq!(message.flags, flags | 1);
                prop_assert!(same(message.attrs_after(4).unwrap(), &trees));
            }
        }
    }

    #[test]
    fn an_extended_acknowledgement_is_read_capped_or_not() {
        for (capped, request) in [(true, 200_u32), (false, 20)] {
            let mut batch = Batch::new();
            let flags = libc::NLM_F_ACK_TLVS | if capped { libc::NLM_F_CAPPED } else { 0 };
            batch.push(libc::NLMSG_ERROR as u16, flags as u16, |b| {
                b.raw(&(-22_i32).to_ne_bytes()).raw(&request.to_ne_bytes()).raw(&[0; 12]);
                if !capped {
                    b.raw(&[7; 4]);
                }
                b.text(1, "no such thing").u32(2, 24);
            });
            let message = messages(batch.as_bytes()).next().unwrap().unwrap();
            let ack = Ack::of(&message).unwrap();
            assert_eq!(
                ack,
                Ack { errno: 22, text: Some("no such thing".to_owned()), offset: Some(24), missing: None }
            );
        }
    }
}
