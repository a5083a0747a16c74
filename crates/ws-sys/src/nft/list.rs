//! Reads back what is loaded, to find out whether it is what was committed.

use std::collections::BTreeSet;

use super::{Family, SUBSYSTEM, Set, Table, Value};
use crate::netlink::{Attr, Batch, Body, Error, Malformed, Message, Socket};

/// `struct nfgenmsg`
const HEADER: usize = 4;

/// A base chain or a chain that rules jump to, as it is loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainInfo {
    /// Its name.
    pub name: String,
    /// Hook, priority and policy, as the kernel numbers them; `None`: not a base chain.
    pub base: Option<(u32, i32, u32)>,
}

/// A rule as it is loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleInfo {
    /// The chain that it is in.
    pub chain: String,
    /// Its number in its table: another one after it was replaced.
    pub handle: u64,
    /// The names of its expressions, in order.
    pub expressions: Vec<String>,
}

fn request(op: libc::c_int, family: u8, attrs: impl FnOnce(&mut Body<'_>)) -> Batch {
    let mut batch = Batch::new();
    batch.push(SUBSYSTEM | op as u16, 0, |b| {
        b.raw(&[family, 0, 0, 0]);
        attrs(b);
    });
    batch
}

fn text(message: &Message<'_>, kind: u16) -> Result<String, Malformed> {
    message.attrs_after(HEADER)?.find_kind(kind)?.text()
}

/// A number that grows with every commit in the namespace, by whomever: the same number means that nothing
/// was changed.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn generation(socket: &mut Socket) -> Result<u32, Error> {
    let mut found = None;
    socket.ask(&mut request(libc::NFT_MSG_GETGEN, 0, |_| {}), |message| {
        if message.kind == SUBSYSTEM | libc::NFT_MSG_NEWGEN as u16 {
            found = Some(message.attrs_after(HEADER)?.find_kind(1)?.be32()?);
        }
        Ok(())
    })?;
    found.ok_or(Error::Malformed(Malformed::Missing))
}

/// The names of all tables of a family.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn tables(socket: &mut Socket, family: Family) -> Result<BTreeSet<String>, Error> {
    let mut found = BTreeSet::new();
    socket.dump(&mut request(libc::NFT_MSG_GETTABLE, family.number(), |_| {}), |message| {
        found.insert(text(message, 1)?);
        Ok(())
    })?;
    Ok(found)
}

/// The chains of a table.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn chains(socket: &mut Socket, table: Table) -> Result<Vec<ChainInfo>, Error> {
    let mut found = Vec::new();
    socket.dump(&mut request(libc::NFT_MSG_GETCHAIN, table.family.number(), |_| {}), |message| {
        if text(message, 1)? != table.name {
            return Ok(());
        }
        let attrs = message.attrs_after(HEADER)?;
        let base = match attrs.find_kind(4) {
            Ok(hook) => {
                let hook = hook.attrs();
                let priority = hook.find_kind(2)?.be32()?.cast_signed();
                Some((hook.find_kind(1)?.be32()?, priority, attrs.find_kind(5)?.be32()?))
            }
            Err(Malformed::Missing) => None,
            Err(other) => return Err(other),
        };
        found.push(ChainInfo { name: text(message, 3)?, base });
        Ok(())
    })?;
    Ok(found)
}

/// The rules of a table, chain by chain, in order.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn rules(socket: &mut Socket, table: Table) -> Result<Vec<RuleInfo>, Error> {
    let mut request = request(libc::NFT_MSG_GETRULE, table.family.number(), |b| {
        b.text(1, table.name);
    });
    let mut found = Vec::new();
    socket.dump(&mut request, |message| {
        if text(message, 1)? != table.name {
            return Ok(());
        }
        let attrs = message.attrs_after(HEADER)?;
        let mut expressions = Vec::new();
        for expression in attrs.find_kind(4)?.attrs() {
            expressions.push(expression?.attrs().find_kind(1)?.text()?);
        }
        found.push(RuleInfo { chain: text(message, 2)?, handle: attrs.find_kind(3)?.be64()?, expressions });
        Ok(())
    })?;
    Ok(found)
}

/// A counter as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CounterInfo {
    /// The chain of its rule.
    pub chain: String,
    /// The comment of its rule; without one, empty.
    pub comment: String,
    /// Packets that came so far.
    pub packets: u64,
}

/// The counters of a table's rules, chain by chain, in order; of a rule with several, the first.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn counters(socket: &mut Socket, table: Table) -> Result<Vec<CounterInfo>, Error> {
    let mut request = request(libc::NFT_MSG_GETRULE, table.family.number(), |b| {
        b.text(1, table.name);
    });
    let mut found = Vec::new();
    socket.dump(&mut request, |message| {
        if text(message, 1)? != table.name {
            return Ok(());
        }
        let attrs = message.attrs_after(HEADER)?;
        for expression in attrs.find_kind(4)?.attrs() {
            let expression = expression?.attrs();
            if expression.find_kind(1)?.text()? != "counter" {
                continue;
            }
            // NFTA_COUNTER_BYTES, NFTA_COUNTER_PACKETS.
            let packets = expression.find_kind(2)?.attrs().find_kind(2)?.be64()?;
            let comment = match attrs.find_kind(7) {
                Ok(data) => comment(data.bytes),
                Err(Malformed::Missing) => String::new(),
                Err(other) => return Err(other),
            };
            found.push(CounterInfo { chain: text(message, 2)?, comment, packets });
            break;
        }
        Ok(())
    })?;
    Ok(found)
}

/// The comment in a rule's user data: entries of a type, a length and a value (libnftnl, `udata.h`).
fn comment(mut data: &[u8]) -> String {
    const COMMENT: u8 = 0;
    while let [kind, length, rest @ ..] = data {
        let Some((value, after)) = rest.split_at_checked(usize::from(*length)) else { break };
        if *kind == COMMENT {
            let text = value.strip_suffix(&[0]).unwrap_or(value);
            return String::from_utf8_lossy(text).into_owned();
        }
        data = after;
    }
    String::new()
}

/// The elements of a set.
///
/// The kernel rearranges a set that grew in the background, and a list that is read meanwhile misses some
/// without a word (seen on 6.18); so it is read until it is twice the same.
///
/// # Errors
/// When the kernel cannot be asked, or there is no such set, or its keys are of other types;
/// [`Error::Changed`] when it does not come to rest.
pub fn elements(socket: &mut Socket, set: Set) -> Result<BTreeSet<Vec<Value>>, Error> {
    const ATTEMPTS: usize = 16;
    let mut found = read_elements(socket, set)?;
    for _ in 0..ATTEMPTS {
        let again = read_elements(socket, set)?;
        if again == found {
            return Ok(found);
        }
        found = again;
    }
    Err(Error::Changed)
}

fn read_elements(socket: &mut Socket, set: Set) -> Result<BTreeSet<Vec<Value>>, Error> {
    let mut request = request(libc::NFT_MSG_GETSETELEM, set.table.family.number(), |b| {
        b.text(1, set.table.name).text(2, set.name);
    });
    let mut found = BTreeSet::new();
    socket.dump(&mut request, |message| {
        match message.attrs_after(HEADER)?.find_kind(3) {
            Ok(list) => {
                for element in list.attrs() {
                    found.insert(key(set, &element?)?);
                }
                Ok(())
            }
            // An empty set.
            Err(Malformed::Missing) => Ok(()),
            Err(other) => Err(other),
        }
    })?;
    Ok(found)
}

fn key(set: Set, element: &Attr<'_>) -> Result<Vec<Value>, Malformed> {
    let mut bytes = element.attrs().find_kind(1)?.attrs().find_kind(1)?.bytes;
    if bytes.len() != set.key_len() as usize {
        return Err(Malformed::Value);
    }
    let mut values = Vec::with_capacity(set.fields.len());
    for field in set.fields {
        let len = field.len() as usize;
        let (part, rest) = bytes.split_at(len.next_multiple_of(4));
        values.push(Value::read(*field, &part[..len]).ok_or(Malformed::Value)?);
        bytes = rest;
    }
    Ok(values)
}
