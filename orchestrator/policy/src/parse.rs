//! The policy's document: its keys, and what they must be together.

use portcullis_schemas::events::{LocalRelease, WhenUnreachable};
use portcullis_schemas::ids;
use portcullis_schemas::time::Span;

use super::error::{At, Errors, PolicyError, quoted};
use super::lists::Lists;
use super::profiles::Profiles;
use super::read::{fields, lasting, raw, span, truth, word};
use super::rules::within;
use super::yaml::{self, Node};
use super::{Mode, Policy, exclusions, rules};
use crate::terms::Terms;

/// Largest text, in bytes.
const LARGEST: usize = 1 << 20;

/// A detection is not kept waiting for longer: what waits is read back at each start.
const LONGEST_WAIT: Span = Span::hours(1);

const KEYS: [&str; 9] =
    ["version", "mode", "defaults", "lists", "profiles", "exclusions", "stale_after", "resolve_within", "rules"];
const DEFAULTS: [&str; 6] = ["release_after", "when_unreachable", "on_deadline", "max_isolation", "trust_local", "local_release"];

pub(super) fn parse(text: &str) -> Result<Policy, Vec<PolicyError>> {
    let mut errors = Errors::default();
    let policy = document(text, &mut errors);
    match (errors.finish(), policy) {
        (none, Some(policy)) if none.is_empty() => Ok(policy),
        (errors, _) => Err(errors),
    }
}

fn document(text: &str, errors: &mut Errors) -> Option<Policy> {
    if text.len() > LARGEST {
        errors.push(At::START, format!("the policy has {} bytes; at most {LARGEST} are taken", text.len()));
        return None;
    }
    let before = errors.count();
    let Some(root) = yaml::read(text, errors) else {
        if errors.count() == before {
            errors.push(At::START, "the policy is empty; write version: 1 and rules");
        }
        return None;
    };
    let fields = fields(&root, "the policy", &KEYS, errors)?;
    match fields.get("version") {
        Some(node) => {
            if let Some(version) = raw(node, "version", "1", errors)
                && version != "1"
            {
                errors.push(node.at, format!("version is {}; this Portcullis knows 1", quoted(version)));
            }
        }
        None => errors.push(fields.at, "version is missing; write version: 1"),
    }
    const MODES: [(&str, Mode); 2] = [("enforce", Mode::Enforce), ("audit", Mode::Audit)];
    let mode = fields.get("mode").and_then(|node| word(node, "mode", &MODES, errors)).unwrap_or(Mode::Enforce);
    let mut terms = Terms::default();
    if let Some(node) = fields.get("defaults") {
        defaults(node, &mut terms, errors);
    }
    if let Some(stale_after) = fields.get("stale_after").and_then(|node| span(node, "stale_after", errors)) {
        terms.stale_after = stale_after;
    }
    if let Some(node) = fields.get("resolve_within")
        && let Some(resolve_within) = span(node, "resolve_within", errors)
    {
        if resolve_within > LONGEST_WAIT {
            errors.push(node.at, format!("resolve_within {resolve_within} is too long; write at most {LONGEST_WAIT}"));
        }
        terms.resolve_within = resolve_within;
    }
    let lists = fields.get("lists").map(|node| Lists::parse(node, errors)).unwrap_or_default();
    let profiles = fields.get("profiles").map(|node| Profiles::parse(node, &lists, errors)).unwrap_or_default();
    if let Some(node) = fields.get("exclusions")
        && let Some(fields) = self::fields(node, "exclusions", &["automatic", "manual_default"], errors)
    {
        for (key, exclusions) in [("automatic", &mut terms.automatic), ("manual_default", &mut terms.manual)] {
            if let Some(node) = fields.get(key) {
                *exclusions = exclusions::parse(node, key, &profiles, &lists, errors);
            }
        }
    }
    let rules = match fields.get("rules") {
        Some(node) => rules::parse(node, &terms, &lists, text, errors),
        None => {
            errors.push(fields.at, "rules are missing; the least is rules: [{ name: rest, then: observe }]");
            Vec::new()
        }
    };
    let (warnings, mentions) = errors.remarks();
    Some(Policy { hash: ids::sha256(text.as_bytes()), mode, terms, rules, warnings, mentions })
}

fn defaults(node: &Node, terms: &mut Terms, errors: &mut Errors) {
    let Some(fields) = fields(node, "defaults", &DEFAULTS, errors) else { return };
    const UNREACHABLE: [(&str, WhenUnreachable); 2] = [("release", WhenUnreachable::Release), ("stay", WhenUnreachable::Stay)];
    const LOCAL: [(&str, LocalRelease); 3] =
        [("root", LocalRelease::Root), ("token", LocalRelease::Token), ("off", LocalRelease::Off)];
    if let Some(found) = fields.get("when_unreachable").and_then(|node| word(node, "when_unreachable", &UNREACHABLE, errors)) {
        terms.when_unreachable = found;
    }
    if let Some(found) = fields.get("local_release").and_then(|node| word(node, "local_release", &LOCAL, errors)) {
        terms.local_release = found;
    }
    if let Some(found) = fields.get("trust_local").and_then(|node| truth(node, "trust_local", errors)) {
        terms.trust_local = found;
    }
    if let Some(node) = fields.get("on_deadline") {
        if raw(node, "on_deadline", "release", errors) == Some("ask") {
            errors.push(node.at, "on_deadline: ask is not built yet; write release");
        } else {
            word(node, "on_deadline", &[("release", ())], errors);
        }
    }
    let most = fields.get("max_isolation");
    if let Some(found) = most.and_then(|node| lasting(node, "max_isolation", errors)) {
        terms.max_isolation = found;
    }
    let release_after = fields.get("release_after");
    if let Some(found) = release_after.and_then(|node| lasting(node, "release_after", errors)) {
        terms.release_after = found;
    }
    // Only one of the two need be written to be at odds with the other's default.
    if let Some(node) = release_after.or(most) {
        within(terms.release_after, terms, node.at, errors);
    }
}
