//! From the rules as values to what the kernel takes: the messages of one nfnetlink transaction.
//!
//! The `nftables` crate's types stay the one form in which rules are written, kept as snapshots and compared. This is a compiler for the part of
//! them that our rules use; what it does not know is an error that names it, and nothing is left out in silence. Numbers and layouts:
//! include/uapi/linux/netfilter/nf_tables.h. Which dependencies a match has, and with that how `nft` lists it, is as `nft` 1.0.6 does it.

mod attributes;
mod fields;
mod rules;
mod sets;
mod values;

use std::collections::BTreeMap;

use nftables::schema::{Chain, FlushObject, NfCmd, NfListObject, NfObject, Nftables, Table};
use nftables::types::{NfChainPolicy, NfChainType, NfFamily, NfHook};

use crate::ruleset::EVERY_DEVICE;
use attributes::Attributes;

/// One message of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// NFT_MSG_*, without the subsystem.
    pub kind: u8,
    /// NLM_F_CREATE and NLM_F_APPEND where it makes something.
    pub flags: u16,
    /// NFPROTO_*
    pub family: u8,
    pub body: Vec<u8>,
    /// What it is about, for errors.
    pub about: String,
}

/// The compiler does not know this.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("these rules cannot be brought to the kernel directly: {0}")]
pub struct Unsupported(pub String);

type Result<T> = std::result::Result<T, Unsupported>;

const NEWTABLE: u8 = 0;
const DELTABLE: u8 = 2;
const NEWCHAIN: u8 = 3;
const DELCHAIN: u8 = 5;
const NEWRULE: u8 = 6;
const DELRULE: u8 = 8;
const NEWSET: u8 = 9;
const DELSET: u8 = 11;
const NEWSETELEM: u8 = 12;
const DELSETELEM: u8 = 14;

const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;

/// NFT_TABLE_F_OWNER | NFT_TABLE_F_PERSIST: only the socket that made or adopted the table may change it, and it outlives that socket.
pub const LOCKED: u32 = 0x2 | 0x4;

/// The messages of `batch`, in its order. `table_flags` are those of every table that it adds; 0 also wakes a dormant one.
pub fn lower(batch: &Nftables<'_>, table_flags: u32) -> Result<Vec<Message>> {
    let mut lowering = Lowering { table_flags, messages: Vec::new(), anonymous: 0, kinds: BTreeMap::new() };
    for object in batch.objects.iter() {
        match object {
            NfObject::CmdObject(NfCmd::Add(object)) => lowering.add(object)?,
            NfObject::CmdObject(NfCmd::Delete(object)) => lowering.delete(object)?,
            NfObject::CmdObject(NfCmd::Flush(object)) => lowering.flush(object)?,
            other => return unsupported("command", other),
        }
    }
    Ok(lowering.messages)
}

struct Lowering {
    table_flags: u32,
    messages: Vec<Message>,
    /// Anonymous sets so far; their numbers in this transaction.
    anonymous: u32,
    /// What the keys of the sets so far are made of, by family and name, and whether they are intervals.
    kinds: BTreeMap<(u8, String), (Vec<values::Kind>, bool)>,
}

impl Lowering {
    fn say(&mut self, kind: u8, flags: u16, family: NfFamily, about: String, body: Attributes) -> Result<()> {
        self.messages.push(Message { kind, flags, family: number(family)?, body: body.done(), about });
        Ok(())
    }

    fn add(&mut self, object: &NfListObject<'_>) -> Result<()> {
        match object {
            NfListObject::Table(table) => {
                let body = Attributes::new().text(1, &table.name).be32(2, self.table_flags);
                self.say(NEWTABLE, CREATE, table.family, about_table(table), body)
            }
            NfListObject::Chain(chain) => self.chain(chain),
            NfListObject::Set(set) => self.set(set),
            NfListObject::Element(element) => self.elements(element),
            NfListObject::Rule(rule) => self.rule(rule),
            other => unsupported("object", other),
        }
    }

    fn delete(&mut self, object: &NfListObject<'_>) -> Result<()> {
        match object {
            NfListObject::Table(table) => {
                self.say(DELTABLE, 0, table.family, about_table(table), Attributes::new().text(1, &table.name))
            }
            NfListObject::Chain(chain) => {
                let body = Attributes::new().text(1, &chain.table).text(3, &chain.name);
                self.say(DELCHAIN, 0, chain.family, format!("chain {}", chain.name), body)
            }
            NfListObject::Set(set) => {
                let body = Attributes::new().text(1, &set.table).text(2, &set.name);
                self.say(DELSET, 0, set.family, format!("set {}", set.name), body)
            }
            other => unsupported("object to delete", other),
        }
    }

    fn flush(&mut self, object: &FlushObject<'_>) -> Result<()> {
        match object {
            // A rule to delete that is not named means all of them.
            FlushObject::Table(table) => {
                self.say(DELRULE, 0, table.family, about_table(table), Attributes::new().text(1, &table.name))
            }
            FlushObject::Chain(chain) => {
                let body = Attributes::new().text(1, &chain.table).text(2, &chain.name);
                self.say(DELRULE, 0, chain.family, format!("chain {}", chain.name), body)
            }
            FlushObject::Set(set) => {
                let body = Attributes::new().text(1, &set.table).text(2, &set.name);
                self.say(DELSETELEM, 0, set.family, format!("set {}", set.name), body)
            }
            other => unsupported("object to flush", other),
        }
    }

    fn chain(&mut self, chain: &Chain<'_>) -> Result<()> {
        let mut body = Attributes::new().text(1, &chain.table).text(3, &chain.name);
        if let Some(hook) = chain.hook {
            if chain._type != Some(NfChainType::Filter) {
                return unsupported("type of chain", &chain._type);
            }
            let mut at = Attributes::new().be32(1, hook_number(chain.family, hook)?).be32(2, chain.prio.unwrap_or(0) as u32);
            at = match &chain.dev {
                // NFTA_HOOK_DEVS with an NFTA_DEVICE_PREFIX that every name has.
                Some(device) if device == EVERY_DEVICE => at.nest(4, Attributes::new().text(2, "")),
                Some(device) => at.text(3, device),
                None => at,
            };
            body = body.nest(4, at);
            if let Some(policy) = chain.policy {
                body = body.be32(5, matches!(policy, NfChainPolicy::Accept).into());
            }
            body = body.text(7, "filter");
        }
        self.say(NEWCHAIN, CREATE, chain.family, format!("chain {}", chain.name), body)
    }
}

fn about_table(table: &Table<'_>) -> String {
    format!("table {}", table.name)
}

/// include/uapi/linux/netfilter.h
fn number(family: NfFamily) -> Result<u8> {
    match family {
        NfFamily::INet => Ok(1),
        NfFamily::NetDev => Ok(5),
        other => unsupported("family", &other),
    }
}

/// NF_INET_* and NF_NETDEV_*
fn hook_number(family: NfFamily, hook: NfHook) -> Result<u32> {
    Ok(match (family, hook) {
        (NfFamily::INet, NfHook::Prerouting) | (NfFamily::NetDev, NfHook::Ingress) => 0,
        (NfFamily::INet, NfHook::Input) | (NfFamily::NetDev, NfHook::Egress) => 1,
        (NfFamily::INet, NfHook::Forward) => 2,
        (NfFamily::INet, NfHook::Output) => 3,
        (NfFamily::INet, NfHook::Postrouting) => 4,
        other => return unsupported("hook", &other),
    })
}

fn unsupported<T>(what: &str, which: &impl std::fmt::Debug) -> Result<T> {
    Err(Unsupported(format!("{what} {which:?}")))
}
