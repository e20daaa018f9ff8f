//! `rules`: in order, the first match decides, and the last one takes everything.

use std::collections::HashMap;

use portcullis_schemas::events::{For, IfUnanswered, Severity};
use portcullis_schemas::time::Span;

use super::during::During;
use super::error::{At, Errors, one_of, quoted};
use super::lists::Lists;
use super::profiles::Profiles;
use super::question::{OnDeadline, Question};
use super::read::{Fields, fields, lasting, list, name, number, one_or_many_of, plain, span_within, text, truth, word};
use super::rule::{Rule, Then};
use super::terms::Terms;
use super::threshold::Threshold;
use super::view::Sees;
use super::when::Whens;
use super::yaml::Node;
use super::{exclusions, matching, shadow};

const MOST: usize = 1000;

const KEYS: [&str; 15] = [
    "name",
    "match",
    "when",
    "during",
    "outside",
    "threshold",
    "then",
    "release_after",
    "on_deadline",
    "approvals",
    "ask_for",
    "if_unanswered",
    "audit",
    "notify",
    "exclusions",
];

/// Of a rule that asks.
const OF_ASK: [&str; 3] = ["approvals", "ask_for", "if_unanswered"];

/// Outputs of one rule.
const MOST_OUTPUTS: usize = 16;

/// What the rules build on: the rest of the policy, which is read before them.
pub(super) struct Known<'p> {
    pub terms: &'p Terms,
    pub groups: &'p [String],
    pub lists: &'p Lists,
    pub profiles: &'p Profiles,
    pub whens: &'p Whens<'p>,
}

pub(super) fn parse(node: &Node, known: &Known<'_>, errors: &mut Errors) -> Vec<Rule> {
    let Some(nodes) = list(node, "rules", errors) else { return Vec::new() };
    if nodes.len() > MOST {
        errors.push(node.at, format!("there are {} rules; at most {MOST} are taken", nodes.len()));
        return Vec::new();
    }
    if nodes.is_empty() {
        errors.push(node.at, "there are no rules; the least is rules: [{ name: rest, then: observe }]");
    }
    let mut names: HashMap<String, At> = HashMap::new();
    let mut rules: Vec<Rule> = Vec::new();
    let (mut places, mut severities) = (Vec::new(), Vec::new());
    let mut everything: Option<&Node> = None;
    for rule_node in nodes {
        if let Some(taken) = everything {
            let message = format!(
                "this rule is never reached: the one on line {} takes everything; move that one to the end",
                taken.at.line
            );
            errors.push(rule_node.at, message);
        }
        let Some(fields) = fields(rule_node, "a rule", &KEYS, errors) else { continue };
        if ["match", "when", "during", "outside"].iter().all(|key| fields.get(key).is_none()) {
            everything = everything.or(Some(rule_node));
        }
        if let Some(rule) = rule(&fields, known, errors) {
            let at = fields.get("name").map_or(fields.at, |node| node.at);
            if let Some(first) = names.insert(rule.name.clone(), at) {
                errors.push(
                    at,
                    format!("a rule named {:?} is on line {} already; give this one another name", rule.name, first.line),
                );
            }
            severities.push(fields.get("match").and_then(matching::bare_severity));
            places.push(at);
            rules.push(rule);
        }
    }
    exact_severities(&rules, &severities, errors);
    shadow::warn(&rules, &places, errors);
    if let (None, Some(last)) = (everything, nodes.last()) {
        errors.push(
            last.at,
            "the last rule does not take everything; add one without match, when and during: { name: rest, then: observe }",
        );
    }
    debug_assert!(errors.count() > 0 || rules.last().is_some_and(Rule::takes_everything));
    rules
}

fn rule(fields: &Fields<'_>, known: &Known<'_>, errors: &mut Errors) -> Option<Rule> {
    let name = match fields.get("name") {
        Some(node) => name(node, "name", errors),
        None => {
            errors.push(fields.at, "a rule has no name; give it a short one, decisions show it");
            None
        }
    };
    let sees = Sees::Event(known.groups);
    let matching = fields.get("match").map(|node| matching::parse(node, sees, known.lists, errors)).unwrap_or_default();
    let when = fields.get("when").and_then(|node| known.whens.read(node, fields.key_at("when"), sees, errors));
    let during: Vec<During> = [("during", false), ("outside", true)]
        .into_iter()
        .filter_map(|(key, outside)| During::parse(fields.get(key)?, outside, errors))
        .collect();
    let audit = fields.get("audit").and_then(|node| truth(node, "audit", errors)).unwrap_or(false);
    let then = then(fields, known.terms, errors);
    let threshold = fields.get("threshold").and_then(|node| Threshold::parse(node, errors));
    let on_deadline = fields.get("on_deadline").and_then(|node| on_deadline(node, errors)).unwrap_or(known.terms.on_deadline);
    let notify = fields.get("notify").map(|node| notify(node, errors)).unwrap_or_default();
    let exclusions =
        fields.get("exclusions").map(|node| exclusions::parse(node, "exclusions", known.profiles, known.lists, errors));
    if let Some(then @ (Then::Observe | Then::Ignore)) = then {
        for key in ["release_after", "on_deadline", "threshold", "exclusions"] {
            if fields.get(key).is_some() {
                let message = format!("{key} is in a rule that does not isolate; remove it, or write then: isolate");
                errors.push(fields.key_at(key), message);
            }
        }
        if then == Then::Ignore && fields.get("notify").is_some() {
            let message = "notify is in a rule that only records; remove it, or write then: observe";
            errors.push(fields.key_at("notify"), message);
        }
    }
    Some(Rule { name: name?.to_owned(), matching, when, during, then: then?, audit, threshold, on_deadline, notify, exclusions })
}

/// `release` or `ask`.
pub(super) fn on_deadline(node: &Node, errors: &mut Errors) -> Option<OnDeadline> {
    word(node, "on_deadline", &[("release", OnDeadline::Release), ("ask", OnDeadline::Ask)], errors)
}

/// `observe` or `isolate`, with a warning where that isolates without anybody's word.
pub(super) fn if_unanswered(node: &Node, errors: &mut Errors) -> Option<IfUnanswered> {
    const WORDS: [(&str, IfUnanswered); 2] = [("observe", IfUnanswered::Observe), ("isolate", IfUnanswered::Isolate)];
    let found = word(node, "if_unanswered", &WORDS, errors);
    if found == Some(IfUnanswered::Isolate) {
        errors.warn(
            node.at,
            "if_unanswered: isolate isolates a host although no person answered; write observe if that is not meant",
        );
    }
    found
}

/// The names of outputs, which the orchestrator's configuration defines.
fn notify(node: &Node, errors: &mut Errors) -> Vec<String> {
    let mut outputs: Vec<String> = Vec::new();
    for item in one_or_many_of(node, "notify", errors).unwrap_or_default() {
        let Some(written) = text(item, "notify", errors) else { continue };
        if !plain(written) || written.len() > 64 {
            let message = format!("{} is no name of an output; write letters, digits, _ and -, at most 64", quoted(written));
            errors.push(item.at, message);
        } else if outputs.iter().any(|earlier| earlier == written) {
            errors.push(item.at, format!("notify has {} twice; keep one", quoted(written)));
        } else {
            outputs.push(written.to_owned());
        }
    }
    if outputs.len() > MOST_OUTPUTS {
        errors.push(node.at, format!("notify has {} outputs; at most {MOST_OUTPUTS} are taken", outputs.len()));
    }
    outputs
}

/// `severity: high` takes high alone: where what is worse is left to no other rule that names it, that is hardly meant.
fn exact_severities(rules: &[Rule], places: &[Option<(At, Severity)>], errors: &mut Errors) {
    let takes = |rule: &Rule, severity| rule.matching.iter().find_map(|condition| condition.takes(severity));
    for (rule, place) in rules.iter().zip(places) {
        let isolates = matches!(rule.then, Then::Isolate { .. });
        let Some((at, lowest)) = place.filter(|(_, lowest)| isolates && *lowest != Severity::Unknown) else { continue };
        let left_out = |severity: &Severity| !rules.iter().any(|other| takes(other, *severity) == Some(true));
        let missed: Vec<&str> =
            Severity::ALL.into_iter().filter(|severity| *severity > lowest).filter(left_out).map(Severity::as_str).collect();
        if !missed.is_empty() {
            let word = lowest.as_str();
            let message = format!(
                "severity {word} is exactly {word}: this rule does not take {}; write \">= {word}\", or \"= {word}\" if that is meant",
                one_of(missed)
            );
            errors.warn(at, message);
        }
    }
}

fn then(fields: &Fields<'_>, terms: &Terms, errors: &mut Errors) -> Option<Then> {
    #[derive(Clone, Copy, PartialEq)]
    enum Word {
        Isolate,
        Ask,
        Observe,
        Ignore,
    }
    const WORDS: [(&str, Word); 4] =
        [("isolate", Word::Isolate), ("ask", Word::Ask), ("observe", Word::Observe), ("ignore", Word::Ignore)];
    let mut release_after = terms.release_after;
    if let Some(node) = fields.get("release_after")
        && let Some(written) = lasting(node, "release_after", errors)
    {
        within(written, terms, node.at, errors);
        release_after = written;
    }
    let approvals = fields.get("approvals").and_then(|node| number(node, "approvals", 1, 5, errors));
    let ask_for = fields.get("ask_for").and_then(|node| ask_for(node, errors));
    let unanswered = fields.get("if_unanswered").and_then(|node| if_unanswered(node, errors));
    let Some(node) = fields.get("then") else {
        errors.push(fields.at, format!("a rule has no then; write {}", one_of(WORDS.map(|(word, _)| word))));
        return None;
    };
    let word = word(node, "then", &WORDS, errors)?;
    for key in OF_ASK.into_iter().filter(|key| word != Word::Ask && fields.get(key).is_some()) {
        let message = format!("{key} is in a rule that does not ask; remove it, or write then: ask");
        errors.push(fields.key_at(key), message);
    }
    Some(match word {
        Word::Isolate => Then::Isolate { release_after },
        Word::Observe => Then::Observe,
        Word::Ignore => Then::Ignore,
        Word::Ask => Then::Ask(Question {
            approvals: approvals.and_then(|found| u8::try_from(found).ok()).unwrap_or(1),
            ask_for: ask_for.unwrap_or(terms.ask_for),
            if_unanswered: unanswered.unwrap_or(terms.if_unanswered),
            release_after,
        }),
    })
}

/// At most a week: what nobody answered until then is no question any more.
pub(super) fn ask_for(node: &Node, errors: &mut Errors) -> Option<Span> {
    span_within(node, "ask_for", Span::hours(7 * 24), errors)
}

/// Says where `release_after` is longer than `max_isolation` allows.
pub(super) fn within(release_after: For, terms: &Terms, at: At, errors: &mut Errors) {
    match (release_after, terms.max_isolation) {
        (For::Never, For::Span(most)) => {
            errors.push(at, format!("release_after: never needs max_isolation: never in defaults (it is {most})"));
        }
        (For::Span(wanted), For::Span(most)) if wanted > most => {
            errors.push(
                at,
                format!(
                    "release_after {wanted} is longer than max_isolation {most}; shorten it, or raise max_isolation in defaults"
                ),
            );
        }
        _ => {}
    }
}
