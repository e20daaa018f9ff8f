//! Sets and their elements. Keys of several parts have each part padded to four bytes.

use nftables::expr::{Elem, Expression, NamedExpression, SetItem};
use nftables::schema::{Element, Set, SetFlag, SetType, SetTypeValue};
use nftables::stmt::Counter;
use nftables::types::NfFamily;

use super::attributes::Attributes;
use super::values::{Kind, span, value};
use super::{APPEND, CREATE, Lowering, NEWSET, NEWSETELEM, Result, unsupported};

const ANONYMOUS: u32 = 0x1;
const CONSTANT: u32 = 0x2;
const INTERVAL: u32 = 0x4;
const CONCAT: u32 = 0x80;
/// An attribute holds less than 64 KiB; the rest of a long list goes into another message of the same transaction.
const ROOM: usize = 48 * 1024;

impl Lowering {
    pub(super) fn set(&mut self, set: &Set<'_>) -> Result<()> {
        let kinds = kinds(&set.set_type)?;
        let is_interval = match &set.flags {
            None => false,
            Some(flags) if flags.iter().all(|flag| *flag == SetFlag::Interval) => !flags.is_empty(),
            Some(other) => return unsupported("flags of a set", other),
        };
        let is_concatenated = kinds.len() > 1;
        if is_interval && !is_concatenated {
            return unsupported("interval set with a single key", &set.name);
        }
        let flags = if is_interval { INTERVAL | CONCAT } else { 0 };
        let mut body =
            described(Attributes::new().text(1, &set.table).text(2, &set.name), flags, &kinds, self.messages.len() as u32);
        if is_interval {
            let fields = kinds
                .iter()
                .fold(Attributes::new(), |fields, kind| fields.nest(1, Attributes::new().be32(1, kind.length() as u32)));
            body = body.nest(9, Attributes::new().nest(2, fields));
        }
        self.kinds.insert((set.family as u8, set.name.to_string()), (kinds, is_interval));
        self.say(NEWSET, CREATE, set.family, format!("set {}", set.name), body)
    }

    pub(super) fn elements(&mut self, element: &Element<'_>) -> Result<()> {
        let Some((kinds, is_interval)) = self.kinds.get(&(element.family as u8, element.name.to_string())).cloned() else {
            return unsupported("elements of a set that is not in the batch", &element.name);
        };
        let mut list = Attributes::new();
        for item in element.elem.iter() {
            list = list.nest(1, entry(&kinds, is_interval, item)?);
            if list.len() > ROOM {
                self.list(element.family, (&element.table, &element.name), None, std::mem::take(&mut list))?;
            }
        }
        if list.len() > 0 { self.list(element.family, (&element.table, &element.name), None, list) } else { Ok(()) }
    }

    fn list(&mut self, family: NfFamily, (table, set): (&str, &str), id: Option<u32>, list: Attributes) -> Result<()> {
        let mut body = Attributes::new().text(1, table).text(2, set);
        if let Some(id) = id {
            body = body.be32(4, id);
        }
        self.say(NEWSETELEM, CREATE | APPEND, family, format!("elements of set {set}"), body.nest(3, list))
    }

    /// A set that belongs to the rule that follows; its number in this transaction.
    pub(super) fn anonymous(&mut self, family: NfFamily, table: &str, kind: Kind, items: &[SetItem<'_>]) -> Result<u32> {
        self.anonymous += 1;
        let id = u32::MAX / 2 + self.anonymous;
        let body = described(Attributes::new().text(1, table).text(2, ANONYMOUS_NAME), ANONYMOUS | CONSTANT, &[kind], id);
        let body = body.nest(9, Attributes::new().be32(1, items.len() as u32));
        self.say(NEWSET, CREATE, family, "anonymous set".into(), body)?;
        let mut list = Attributes::new();
        for item in items {
            let SetItem::Element(item) = item else { return unsupported("item of a set", item) };
            list = list.nest(1, Attributes::new().nest(1, Attributes::new().bytes(1, &value(kind, item)?)));
            if list.len() > ROOM {
                self.list(family, (table, ANONYMOUS_NAME), Some(id), std::mem::take(&mut list))?;
            }
        }
        self.list(family, (table, ANONYMOUS_NAME), Some(id), list)?;
        Ok(id)
    }
}

/// The kernel puts a number in the place of `%d`.
pub(super) const ANONYMOUS_NAME: &str = "__set%d";

fn described(body: Attributes, flags: u32, kinds: &[Kind], id: u32) -> Attributes {
    // Types of parts, six bits each; a name and more than one part never meet.
    let key_type = kinds.iter().fold(0, |all, kind| all << 6 | kind.nft_type());
    let key_length = match kinds {
        [one] => one.length(),
        parts => parts.iter().map(|kind| kind.length().next_multiple_of(4)).sum(),
    };
    body.be32(3, flags).be32(4, key_type).be32(5, key_length as u32).be32(10, id)
}

fn entry(kinds: &[Kind], is_interval: bool, item: &Expression<'_>) -> Result<Attributes> {
    let (item, counts) = match item {
        Expression::Named(NamedExpression::Elem(elem)) => match elem {
            Elem { val, timeout: None, expires: None, comment: None, counter: Some(Counter::Anonymous(None)) } => (&**val, true),
            other => return unsupported("element", other),
        },
        bare => (bare, false),
    };
    let parts = match item {
        Expression::Named(NamedExpression::Concat(parts)) => parts.as_slice(),
        one => std::slice::from_ref(one),
    };
    if parts.len() != kinds.len() {
        return unsupported("element", item);
    }
    let (mut first, mut last) = (Vec::new(), Vec::new());
    for (kind, part) in kinds.iter().zip(parts) {
        let (from, to) = span(*kind, part)?;
        if from != to && !is_interval {
            return unsupported("range in a set without intervals", item);
        }
        for (key, part) in [(&mut first, from), (&mut last, to)] {
            key.extend(part);
            if kinds.len() > 1 {
                key.resize(key.len().next_multiple_of(4), 0);
            }
        }
    }
    let mut entry = Attributes::new().nest(1, Attributes::new().bytes(1, &first));
    if is_interval {
        entry = entry.nest(10, Attributes::new().bytes(1, &last));
    }
    // NFTA_SET_ELEM_EXPR, with a counter that begins at nothing.
    if counts {
        entry = entry.nest(7, Attributes::new().text(1, "counter").nest(2, Attributes::new().be64(1, 0).be64(2, 0)));
    }
    Ok(entry)
}

fn kinds(types: &SetTypeValue<'_>) -> Result<Vec<Kind>> {
    let one = |kind: &SetType| {
        Ok(match kind {
            SetType::Ipv4Addr => Kind::Ipv4,
            SetType::Ipv6Addr => Kind::Ipv6,
            SetType::InetProto => Kind::Protocol,
            SetType::InetService => Kind::Port,
            other => return unsupported("type of a set", other),
        })
    };
    match types {
        SetTypeValue::Single(kind) => Ok(vec![one(kind)?]),
        SetTypeValue::Concatenated(kinds) => kinds.iter().map(one).collect(),
    }
}
