//! Rules: each match loads into registers and compares; a register has four bytes here (NFT_REG32_00 and up).

use nftables::expr::{BinaryOperation, Expression, NamedExpression, Socket, SocketAttr};
use nftables::schema::Rule;
use nftables::stmt::{Counter, Limit, Mangle, Match, Operator, Reject, RejectType, Statement};
use nftables::types::{NfFamily, RejectCode};

use super::attributes::Attributes;
use super::fields::{Field, META_SECMARK, Needs, Network, Source, field};
use super::sets::ANONYMOUS_NAME;
use super::values::{Kind, span, value};
use super::{APPEND, CREATE, Lowering, NEWRULE, Result, unsupported};

/// NFT_REG32_00: the first register of four bytes.
const REGISTER: u32 = 8;
const EQ: u32 = 0;
const NEQ: u32 = 1;
const LT: u32 = 2;
const LTE: u32 = 3;
const GT: u32 = 4;
const GTE: u32 = 5;
/// NF_DROP, NF_ACCEPT, NFT_JUMP, NFT_GOTO, NFT_RETURN
const DROP: i32 = 0;
const ACCEPT: i32 = 1;
const JUMP: i32 = -3;
const GOTO: i32 = -4;
const RETURN: i32 = -5;

/// The expressions of one rule.
struct Body {
    family: NfFamily,
    list: Attributes,
    /// What earlier matches of this rule have made sure.
    sure: Needs,
}

impl Lowering {
    pub(super) fn rule(&mut self, rule: &Rule<'_>) -> Result<()> {
        let mut body = Body { family: rule.family, list: Attributes::new(), sure: Needs::default() };
        for statement in rule.expr.iter() {
            match statement {
                Statement::Match(matched) => self.matched(&rule.table, matched, &mut body)?,
                Statement::Counter(Counter::Anonymous(None)) => body.push("counter", Attributes::new().be64(1, 0).be64(2, 0)),
                Statement::Limit(limit) => body.limit(limit)?,
                Statement::Mangle(mangle) => body.mangle(mangle)?,
                Statement::Reject(Some(reject)) => body.reject(reject)?,
                Statement::Accept(None) => body.verdict(ACCEPT, None),
                Statement::Drop(None) => body.verdict(DROP, None),
                Statement::Return(None) => body.verdict(RETURN, None),
                Statement::Jump(to) => body.verdict(JUMP, Some(&to.target)),
                Statement::Goto(to) => body.verdict(GOTO, Some(&to.target)),
                other => return unsupported("statement", other),
            }
        }
        let message = Attributes::new().text(1, &rule.table).text(2, &rule.chain).nest(4, body.list);
        self.say(NEWRULE, CREATE | APPEND, rule.family, format!("a rule of chain {}", rule.chain), message)
    }

    fn matched(&mut self, table: &str, matched: &Match<'_>, body: &mut Body) -> Result<()> {
        if let Expression::Named(NamedExpression::Concat(parts)) = &matched.left {
            let fields = parts.iter().map(field).collect::<Result<Vec<_>>>()?;
            for field in &fields {
                body.need(field.needs);
            }
            let mut register = REGISTER;
            for field in &fields {
                body.load(field, register);
                register += field.kind.length().div_ceil(4) as u32;
            }
            return match (&matched.right, &matched.op) {
                (Expression::String(name), Operator::EQ) if name.starts_with('@') => {
                    body.lookup(&name[1..], None, false);
                    Ok(())
                }
                _ => unsupported("comparison of several fields", matched),
            };
        }
        if let Expression::Named(NamedExpression::Socket(Socket { key })) = &matched.left {
            return match (&**key, &matched.op, &matched.right) {
                (SocketAttr::Cgroupv2, Operator::EQ, Expression::String(group)) => body.group(group),
                _ => unsupported("question about a socket", matched),
            };
        }
        let (mut field, mut mask) = (field_of(&matched.left)?, None);
        if let Expression::BinaryOperation(operation) = &matched.left {
            let BinaryOperation::AND(_, bits) = &**operation else { return unsupported("operation", operation) };
            mask = Some(value(field.kind, bits)?);
        } else if let Some(bits) = field.mask.take() {
            mask = Some(value(field.kind, &Expression::Number(bits))?);
        }
        body.need(field.needs);
        body.load(&field, REGISTER);
        if let Some(mask) = &mask {
            body.bitwise(mask);
        }
        self.compare(table, &field, matched, body)
    }

    fn compare(&mut self, table: &str, field: &Field, matched: &Match<'_>, body: &mut Body) -> Result<()> {
        let kind = field.kind;
        match (&matched.op, &matched.right) {
            (Operator::EQ, Expression::String(name)) if name.starts_with('@') => body.lookup(&name[1..], None, false),
            (Operator::NEQ, Expression::String(name)) if name.starts_with('@') => body.lookup(&name[1..], None, true),
            (Operator::EQ, Expression::Named(NamedExpression::Set(items))) => {
                let id = self.anonymous(body.family, table, kind, items)?;
                body.lookup(ANONYMOUS_NAME, Some(id), false);
            }
            // Any of these bits.
            (Operator::IN, bits) if kind == Kind::CtState => {
                body.bitwise(&value(kind, bits)?);
                body.cmp(NEQ, &[0; 4]);
            }
            (Operator::EQ, range @ Expression::Range(_)) => {
                let (first, last) = span(kind, range)?;
                let (first, last) = (body.by_size(kind, first), body.by_size(kind, last));
                if kind.is_native() {
                    body.turn_around();
                }
                body.cmp(GTE, &first);
                body.cmp(LTE, &last);
            }
            (op @ (Operator::EQ | Operator::NEQ), one) => {
                let value = value(kind, one)?;
                body.cmp(if matches!(op, Operator::EQ) { EQ } else { NEQ }, &value);
                if matches!(op, Operator::EQ) {
                    body.learn(field, &value);
                }
            }
            (op, one) => {
                // The crate writes LT as `>` and GT as `<`; what counts is what is written.
                let op = match op {
                    Operator::LT => GT,
                    Operator::GT => LT,
                    Operator::LEQ => LTE,
                    Operator::GEQ => GTE,
                    other => return unsupported("operator", other),
                };
                let value = body.by_size(kind, value(kind, one)?);
                if kind.is_native() {
                    body.turn_around();
                }
                body.cmp(op, &value);
            }
        }
        Ok(())
    }
}

fn field_of(left: &Expression<'_>) -> Result<Field> {
    match left {
        Expression::BinaryOperation(operation) => match &**operation {
            BinaryOperation::AND(inner, _) => field(inner),
            other => unsupported("operation", other),
        },
        plain => field(plain),
    }
}

impl Body {
    fn push(&mut self, name: &str, data: Attributes) {
        let list = std::mem::take(&mut self.list);
        self.list = list.nest(1, Attributes::new().text(1, name).nest(2, data));
    }

    /// Asks what a field needs, where that is not sure yet.
    fn need(&mut self, needs: Needs) {
        if let Some(network) = needs.network.filter(|network| self.sure.network != Some(*network)) {
            if self.family == NfFamily::NetDev {
                self.meta(1, REGISTER);
                let ether_type: u16 = match network {
                    Network::Ip => 0x0800,
                    Network::Ip6 => 0x86dd,
                    Network::Arp => 0x0806,
                };
                self.cmp(EQ, &ether_type.to_be_bytes());
            } else {
                self.meta(15, REGISTER);
                self.cmp(EQ, &[if network == Network::Ip { 2 } else { 10 }]);
            }
            self.sure.network = Some(network);
        }
        if let Some(transport) = needs.transport.filter(|transport| self.sure.transport != Some(*transport)) {
            self.meta(16, REGISTER);
            self.cmp(EQ, &[transport]);
            self.sure.transport = Some(transport);
        }
    }

    /// A match may be what a later one needs.
    fn learn(&mut self, field: &Field, value: &[u8]) {
        if let (Source::Meta(16), [protocol]) = (field.source, value) {
            self.sure.transport = Some(*protocol);
        }
    }

    fn load(&mut self, field: &Field, register: u32) {
        let length = field.kind.length() as u32;
        match field.source {
            Source::Meta(key) => self.meta(key, register),
            Source::Ct(key) => self.push("ct", Attributes::new().be32(1, register).be32(2, key)),
            Source::Payload(base, offset) => {
                let data = Attributes::new().be32(1, register).be32(2, base).be32(3, offset).be32(4, length);
                self.push("payload", data);
            }
            Source::Extension(header, offset) => {
                let data = Attributes::new().be32(1, register).bytes(2, &[header]).be32(3, offset).be32(4, length);
                self.push("exthdr", data);
            }
        }
    }

    fn meta(&mut self, key: u32, register: u32) {
        self.push("meta", Attributes::new().be32(2, key).be32(1, register));
    }

    /// Asks for the control group of the socket at the depth at which `group` is: its number and its depth (see `gate::ControlGroup`).
    fn group(&mut self, group: &str) -> Result<()> {
        let parts = group.split_once(' ').and_then(|(id, depth)| Some((id.parse::<u64>().ok()?, depth.parse::<u32>().ok()?)));
        let Some((id, depth)) = parts else { return unsupported("control group", &group) };
        // NFT_SOCKET_CGROUPV2; the kernel keeps the number in the order of the machine.
        self.push("socket", Attributes::new().be32(1, 3).be32(2, REGISTER).be32(3, depth));
        self.cmp(EQ, &id.to_ne_bytes());
        Ok(())
    }

    fn cmp(&mut self, op: u32, value: &[u8]) {
        let data = Attributes::new().be32(1, REGISTER).be32(2, op).nest(3, Attributes::new().bytes(1, value));
        self.push("cmp", data);
    }

    fn bitwise(&mut self, mask: &[u8]) {
        let zero = vec![0; mask.len()];
        let data = Attributes::new()
            .be32(1, REGISTER)
            .be32(2, REGISTER)
            .be32(3, mask.len() as u32)
            .nest(4, Attributes::new().bytes(1, mask))
            .nest(5, Attributes::new().bytes(1, &zero));
        self.push("bitwise", data);
    }

    /// Values are compared byte by byte, most significant first (NFT_BYTEORDER_HTON).
    fn turn_around(&mut self) {
        let data = Attributes::new().be32(1, REGISTER).be32(2, REGISTER).be32(3, 1).be32(4, 4).be32(5, 4);
        self.push("byteorder", data);
    }

    fn by_size(&self, kind: Kind, mut value: Vec<u8>) -> Vec<u8> {
        if kind.is_native() && cfg!(target_endian = "little") {
            value.reverse();
        }
        value
    }

    /// `not`: NFT_LOOKUP_F_INV
    fn lookup(&mut self, set: &str, id: Option<u32>, not: bool) {
        let mut data = Attributes::new().text(1, set).be32(2, REGISTER);
        if let Some(id) = id {
            data = data.be32(4, id);
        }
        if not {
            data = data.be32(5, 1);
        }
        self.push("lookup", data);
    }

    fn verdict(&mut self, code: i32, chain: Option<&str>) {
        let mut verdict = Attributes::new().be32(1, code as u32);
        if let Some(chain) = chain {
            verdict = verdict.text(2, chain);
        }
        let data = Attributes::new().be32(1, 0).nest(2, Attributes::new().nest(2, verdict));
        self.push("immediate", data);
    }

    fn limit(&mut self, limit: &Limit<'_>) -> Result<()> {
        let unit: u64 = match limit.per.as_deref() {
            Some("second") => 1,
            Some("minute") => 60,
            Some("hour") => 3600,
            other => return unsupported("limit per", &other),
        };
        if limit.rate_unit.is_some() || limit.burst_unit.is_some() {
            return unsupported("limit", limit);
        }
        // NFT_LIMIT_F_INV: what is over it.
        let flags = u32::from(limit.inv == Some(true));
        let data = Attributes::new()
            .be64(1, limit.rate.into())
            .be64(2, unit)
            .be32(3, limit.burst.unwrap_or(5))
            .be32(4, 0)
            .be32(5, flags);
        self.push("limit", data);
        Ok(())
    }

    fn mangle(&mut self, mangle: &Mangle<'_>) -> Result<()> {
        let field = field(&mangle.key)?;
        let Source::Meta(META_SECMARK) = field.source else { return unsupported("field to change", mangle) };
        let value = Attributes::new().bytes(1, &value(field.kind, &mangle.value)?);
        self.push("immediate", Attributes::new().be32(1, REGISTER).nest(2, value));
        self.push("meta", Attributes::new().be32(2, META_SECMARK).be32(3, REGISTER));
        Ok(())
    }

    fn reject(&mut self, reject: &Reject) -> Result<()> {
        let (kind, code) = match (reject._type, reject.expr) {
            (Some(RejectType::TCPReset), None) => {
                self.need(Needs { network: None, transport: Some(6) });
                (1, 0)
            }
            (Some(RejectType::ICMPX), Some(RejectCode::AdminProhibited)) => (2, 3),
            other => return unsupported("reject", &other),
        };
        self.push("reject", Attributes::new().be32(1, kind).bytes(2, &[code]));
        Ok(())
    }
}
