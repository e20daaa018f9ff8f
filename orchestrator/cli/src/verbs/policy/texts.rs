//! Policies by name: a file, a hash or its beginning, or `active`.

use std::path::Path;

use portcullis_policy::Policy;
use portcullis_schemas::events::PolicyActivated;
use portcullis_schemas::{Timestamp, ids};

use super::read;
use crate::client::{Client, What};
use crate::failure::Failure;

/// So much of a hash is enough where it is the only one.
const SHORTEST: usize = 6;

/// One activation, as the log has it.
#[derive(Clone, Debug)]
pub struct Activated {
    pub at: Timestamp,
    pub record: PolicyActivated,
}

/// A policy's text, and how it was named.
#[derive(Clone, Debug)]
pub struct Text {
    pub name: String,
    pub hash: String,
    pub text: String,
}

impl Text {
    pub fn of_file(file: &Path) -> Result<Self, Failure> {
        let text = read(file)?;
        Ok(Self { name: file.display().to_string(), hash: ids::sha256(text.as_bytes()), text })
    }

    /// None where this version cannot read it.
    pub fn policy(&self) -> Option<Policy> {
        Policy::parse(&self.text).ok()
    }
}

/// Every activation, oldest first.
pub async fn history<C: Client>(client: &C) -> Result<Vec<Activated>, Failure> {
    let records = client.activations().await?.into_iter();
    Ok(records
        .filter_map(|record| match record.what {
            What::PolicyActivated(event) => Some(Activated { at: record.stored_at, record: event.data }),
            _ => None,
        })
        .collect())
}

pub fn active(history: &[Activated]) -> Option<&str> {
    history.last().and_then(|last| last.record.hash.as_deref())
}

/// The policy that was active before this one, last.
pub fn before<'h>(history: &'h [Activated], hash: Option<&str>) -> Option<&'h str> {
    history.iter().rev().filter_map(|one| one.record.hash.as_deref()).find(|other| Some(*other) != hash)
}

/// The text that is meant: of `active`, of a file that there is, or of a hash.
pub async fn find<C: Client>(client: &C, history: &[Activated], wanted: &str) -> Result<Text, Failure> {
    let path = Path::new(wanted);
    if wanted == "-" || wanted != "active" && path.is_file() {
        return Text::of_file(path);
    }
    let hash = match wanted {
        "active" => active(history).ok_or_else(none_active)?.to_owned(),
        wanted => hash_of(history, wanted)?,
    };
    let text =
        client.policy_text(&hash).await?.ok_or_else(|| Failure::NoPolicy(format!("the text of policy {hash} is not kept")))?;
    Ok(Text { name: format!("policy {}", short(&hash)), hash, text })
}

/// A hash by its beginning, of those that were active once; or any hash in full.
pub fn hash_of(history: &[Activated], wanted: &str) -> Result<String, Failure> {
    let is_hex = wanted.bytes().all(|byte| byte.is_ascii_hexdigit());
    let wanted_lower = wanted.to_ascii_lowercase();
    let mut known: Vec<&str> = history.iter().filter_map(|one| one.record.hash.as_deref()).collect();
    known.sort_unstable();
    known.dedup();
    let fits: Vec<&str> = known.into_iter().filter(|hash| hash.starts_with(&wanted_lower)).collect();
    match fits.as_slice() {
        [one] if wanted.len() >= SHORTEST => Ok((*one).to_owned()),
        [_, _, ..] if is_hex && wanted.len() >= SHORTEST => Err(Failure::NoPolicy(format!(
            "several policies begin with {wanted}: {}",
            fits.iter().map(|hash| short(hash)).collect::<Vec<_>>().join(", ")
        ))),
        _ if is_hex && wanted.len() == 64 => Ok(wanted_lower),
        _ => Err(Failure::NoPolicy(format!("{wanted:?} is no file, and no policy that was active has a hash that begins so"))),
    }
}

pub fn none_active() -> Failure {
    Failure::NoPolicy("no policy is active".into())
}

/// Enough of a hash to tell it.
pub fn short(hash: &str) -> &str {
    hash.get(..12).unwrap_or(hash)
}
