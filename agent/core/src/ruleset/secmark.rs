//! The packet's security mark, by which a device knows what the inet table has let pass. No socket option sets it, and nothing reads it behind the
//! hooks of the security modules (`NF_IP_PRI_SELINUX_LAST`, 225).
//!
//! Neither the nftables crate nor nft's comparison of constants has a word for it, so rules of ours hold it under a name of their own.

use nftables::expr::{CT, Expression, NamedExpression};
use nftables::schema::Nftables;
use nftables::stmt::{Mangle, Match, Operator, Statement};
use serde_json::{Value, json};

use crate::gate::Proof;

/// Stands where the crate has the key of a `ct` expression, and is none of its.
pub(crate) const KEY: &str = "meta secmark";
/// What readers of rules see in place of the number.
const HIDDEN: &str = "the proof";

fn secmark() -> Expression<'static> {
    Expression::Named(NamedExpression::CT(CT { key: KEY.into(), family: None, dir: None }))
}

pub(super) fn set(proof: Proof) -> Statement<'static> {
    Statement::Mangle(Mangle { key: secmark(), value: Expression::Number(proof.number()) })
}

pub(super) fn proves(proof: Proof) -> Statement<'static> {
    super::terms::equals(secmark(), Expression::Number(proof.number()))
}

pub(super) fn is_unset() -> Statement<'static> {
    super::terms::equals(secmark(), Expression::Number(0))
}

pub(super) fn is_set() -> Statement<'static> {
    Statement::Match(Match { left: secmark(), right: Expression::Number(0), op: Operator::NEQ })
}

/// The batch as nft reads it.
pub fn json(batch: &Nftables<'_>) -> serde_json::Result<Value> {
    let mut value = serde_json::to_value(batch)?;
    each_statement(&mut value, &mut |kind, body| match kind {
        // nft (1.0.6) takes no plain constant there.
        "match" if is_ours(&body["left"]) => body["left"] = json!({ "&": [nfts_own(), u32::MAX] }),
        "mangle" if is_ours(&body["key"]) => body["key"] = nfts_own(),
        _ => {}
    });
    Ok(value)
}

/// Puts a word in place of each proof in a rule that was listed or is expected, and gives the numbers: they are compared, and neither logged nor sent.
pub(crate) fn hide(rule: &mut Value) -> Vec<Proof> {
    let mut found = Vec::new();
    each_statement(rule, &mut |kind, body| {
        let (asked, number) = if kind == "match" { ("left", "right") } else { ("key", "value") };
        if !matches!(kind, "match" | "mangle") || !is_secmark(&body[asked]) {
            return;
        }
        body[asked] = nfts_own();
        if let Some(secret) = body[number].as_u64().and_then(|number| u32::try_from(number).ok()).filter(|number| *number != 0) {
            found.push(Proof::new(secret));
            body[number] = HIDDEN.into();
        }
    });
    found
}

fn nfts_own() -> Value {
    json!({ "meta": { "key": "secmark" } })
}

fn is_ours(expression: &Value) -> bool {
    expression["ct"]["key"] == KEY
}

/// In whichever of the three forms.
fn is_secmark(expression: &Value) -> bool {
    let inner = &expression["&"];
    is_ours(expression) || expression["meta"]["key"] == "secmark" || inner[1] == u32::MAX && is_secmark(&inner[0])
}

fn each_statement(value: &mut Value, each: &mut impl FnMut(&str, &mut Value)) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| each_statement(item, each)),
        Value::Object(map) => {
            for (key, part) in map {
                if part.is_object() {
                    each(key, part);
                }
                each_statement(part, each);
            }
        }
        _ => {}
    }
}
