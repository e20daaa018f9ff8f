//! The policy's document: its keys, and what they must be together.

use std::sync::Arc;

use portcullis_schemas::events::{LocalRelease, WhenUnreachable};
use portcullis_schemas::ids;
use portcullis_schemas::time::Span;

use super::cases::{Case, Names};
use super::error::{At, Errors, PolicyError, quoted};
use super::groups::Groups;
use super::index::Index;
use super::limits::Limit;
use super::lists::Lists;
use super::passing::ByHost;
use super::profiles::Profiles;
use super::protect::Protected;
use super::read::{fields, lasting, raw, span, span_or_off, truth, word};
use super::rules::within;
use super::sources::Sources;
use super::terms::Terms;
use super::view::Membership;
use super::when::Whens;
use super::yaml::{self, Node};
use super::{Mode, Policy, exclusions, rules};

/// Largest text, in bytes.
const LARGEST: usize = 1 << 20;

/// A detection is not kept waiting for longer: what waits is read back at each start.
const LONGEST_WAIT: Span = Span::hours(1);

/// A released host is not left to itself for longer.
const LONGEST_CALM: Span = Span::hours(7 * 24);

/// A warning does not come earlier.
const EARLIEST_WARNING: Span = Span::hours(24);

const KEYS: [&str; 17] = [
    "version",
    "mode",
    "defaults",
    "lists",
    "profiles",
    "groups",
    "exclusions",
    "protected",
    "limits",
    "sources",
    "stale_after",
    "resolve_within",
    "cool_down_after_manual_release",
    "hold_off_after_release",
    "warn_before_release",
    "rules",
    "tests",
];
const DEFAULTS: [&str; 8] = [
    "release_after",
    "when_unreachable",
    "on_deadline",
    "ask_for",
    "if_unanswered",
    "max_isolation",
    "trust_local",
    "local_release",
];

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
    for (key, most, calm) in [
        ("cool_down_after_manual_release", LONGEST_CALM, &mut terms.cool_down),
        ("hold_off_after_release", LONGEST_CALM, &mut terms.hold_off),
        ("warn_before_release", EARLIEST_WARNING, &mut terms.warn_before_release),
    ] {
        if let Some(found) = fields.get(key).and_then(|node| span_or_off(node, key, most, errors)) {
            *calm = found;
        }
    }
    let whens = Whens::of(text);
    let lists = fields.get("lists").map(|node| Lists::parse(node, errors)).unwrap_or_default();
    let profiles = fields.get("profiles").map(|node| Profiles::parse(node, &lists, errors)).unwrap_or_default();
    let groups = fields.get("groups").map(|node| Groups::parse(node, &lists, &whens, errors)).unwrap_or_default();
    let groups = Arc::new(groups);
    let names = groups.names();
    let mut by_host = None;
    if let Some(node) = fields.get("exclusions")
        && let Some(fields) = self::fields(node, "exclusions", &["automatic", "manual_default", "by_host"], errors)
    {
        for (key, exclusions) in [("automatic", &mut terms.automatic), ("manual_default", &mut terms.manual)] {
            if let Some(node) = fields.get(key) {
                *exclusions = exclusions::parse(node, key, &profiles, &lists, errors);
            }
        }
        by_host = fields.get("by_host").map(|node| (node, ByHost::parse(node, names, &profiles, &lists, &whens, errors)));
    }
    let protected = fields.get("protected").map(|node| Protected::parse(node, names, &lists, &whens, errors)).unwrap_or_default();
    let limits = fields.get("limits").map(|node| Limit::parse(node, &groups, &lists, &whens, errors)).unwrap_or_default();
    let sources = fields.get("sources").map(|node| Sources::parse(node, errors)).unwrap_or_default();
    let rules = match fields.get("rules") {
        Some(node) => {
            let known = rules::Known { terms: &terms, groups: names, lists: &lists, profiles: &profiles, whens: &whens };
            rules::parse(node, &known, errors)
        }
        None => {
            errors.push(fields.at, "rules are missing; the least is rules: [{ name: rest, then: observe }]");
            Vec::new()
        }
    };
    let tests = fields.get("tests").map(|node| {
        let known = Names {
            complete: errors.count() == 0,
            rules: rules.iter().map(|rule| rule.name.as_str()).collect(),
            protected: protected.iter().map(|entry| entry.name.as_str()).collect(),
            limits: limits.iter().map(Limit::name).collect(),
        };
        Case::parse(node, &known, errors)
    });
    let by_host = by_host.map(|(node, mut by_host)| {
        let mut lists = vec![terms.automatic.as_slice()];
        lists.extend(rules.iter().filter_map(|rule| rule.exclusions.as_deref()));
        by_host.measure(node, &lists, &terms.manual, errors);
        by_host
    });
    let (warnings, mentions) = errors.remarks();
    Some(Policy {
        hash: ids::sha256(text.as_bytes()),
        mode,
        terms,
        groups,
        protected,
        limits,
        sources,
        by_host: by_host.unwrap_or_default(),
        index: Index::of(&rules),
        rules,
        tests: tests.unwrap_or_default(),
        warnings,
        mentions,
    })
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
    if let Some(found) = fields.get("on_deadline").and_then(|node| rules::on_deadline(node, errors)) {
        terms.on_deadline = found;
    }
    if let Some(found) = fields.get("ask_for").and_then(|node| rules::ask_for(node, errors)) {
        terms.ask_for = found;
    }
    if let Some(found) = fields.get("if_unanswered").and_then(|node| rules::if_unanswered(node, errors)) {
        terms.if_unanswered = found;
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
