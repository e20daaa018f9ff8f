//! `tests`: detections with what the policy is to say to them, run by `policy check`.

mod expect;
mod given;

use std::collections::HashMap;

use portcullis_schemas::events::{For, Level, Severity};

use super::error::{At, Errors, PolicyError};
use super::protect::unique;
use super::read::{fields, list, name};
use super::yaml::Node;
use super::{Outcome, Policy};
use expect::Expect;
use given::Given;

const MOST: usize = 1000;

/// One entry of `tests`.
#[derive(Clone, Debug)]
pub(super) struct Case {
    name: String,
    given: Given,
    expect: Expect,
}

/// What a test can name of its policy.
pub(super) struct Names<'p> {
    /// Whether these are all: none was wrong.
    pub complete: bool,
    pub rules: Vec<&'p str>,
    pub protected: Vec<&'p str>,
    pub limits: Vec<&'p str>,
}

impl Case {
    pub fn parse(node: &Node, known: &Names<'_>, errors: &mut Errors) -> Vec<Self> {
        let nodes = list(node, "tests", errors).unwrap_or_default();
        if nodes.len() > MOST {
            errors.push(node.at, format!("there are {} tests; at most {MOST} are taken", nodes.len()));
            return Vec::new();
        }
        let mut names = HashMap::new();
        nodes.iter().filter_map(|node| Self::one(node, known, &mut names, errors)).collect()
    }

    fn one(node: &Node, known: &Names<'_>, names: &mut HashMap<String, At>, errors: &mut Errors) -> Option<Self> {
        let fields = fields(node, "a test", &["name", "given", "expect"], errors)?;
        let name = match fields.get("name") {
            Some(node) => name(node, "name", errors).and_then(|name| unique(name, node.at, "a test", names, errors)),
            None => {
                errors.push(fields.at, "a test has no name; give it a short one");
                None
            }
        };
        let mut part = |key: &str, wants: &str| {
            let node = fields.get(key);
            if node.is_none() {
                errors.push(fields.at, format!("a test has no {key}; write {key}: {wants}"));
            }
            node
        };
        let given = part("given", "{ severity: high, technique: T1486, source: siem }");
        let expect = part("expect", "{ verdict: isolate, rule: NAME }");
        let given = given.and_then(|node| Given::parse(node, errors));
        let expect = expect.and_then(|node| Expect::parse(node, known, errors));
        Some(Self { name: name?, given: given?, expect: expect? })
    }

    /// What is not as expected, at the place of the expectation.
    pub fn failures(&self, policy: &Policy) -> Vec<PolicyError> {
        let answer = Answer::of(policy, &self.given);
        let mismatches = self.expect.mismatches(&answer).into_iter();
        mismatches
            .map(|(At { line, column }, wrong)| {
                let message = format!("test {:?}: {wrong}; it came to {answer}", self.name);
                PolicyError { line, column, message }
            })
            .collect()
    }
}

/// What a policy says to the detection of a test, as if it was enforced, with no host isolated yet, and any threshold reached.
#[derive(Debug)]
struct Answer {
    verdict: &'static str,
    why: Option<String>,
    rule: Option<String>,
    /// Of what isolates or asks.
    release_after: Option<For>,
    protected: Vec<String>,
    limits: Vec<String>,
}

impl Answer {
    fn of(policy: &Policy, given: &Given) -> Self {
        let subject = given.subject();
        let judgement = policy.judge(&subject);
        let owned = |names: Vec<&str>| names.into_iter().map(str::to_owned).collect::<Vec<_>>();
        let protected = owned(policy.protected(&subject.host));
        let limits = owned(policy.limits().iter().filter(|limit| limit.takes(&subject.host)).map(|limit| limit.name()).collect());
        let (verdict, why, release_after) = match judgement.outcome {
            Outcome::Isolate { release_after } => {
                let held = held(policy, given, &protected);
                (if held.is_some() { "ask" } else { "isolate" }, held, Some(release_after))
            }
            Outcome::Ask(question) => ("ask", None, Some(question.release_after)),
            Outcome::Observe => ("observe", None, None),
            Outcome::Ignore => ("ignore", None, None),
            Outcome::RuleError(message) => ("ask", Some(message), None),
            Outcome::UnknownSeverity => ("ask", Some(format!("the severity is {}", Severity::Unknown.as_str())), None),
        };
        Self { verdict, why, rule: judgement.rule.map(str::to_owned), release_after, protected, limits }
    }
}

/// What makes a question of an isolation.
fn held(policy: &Policy, given: &Given, protected: &[String]) -> Option<String> {
    let subject = given.subject();
    if !protected.is_empty() {
        return Some(format!("protected by {}", protected.join(", ")));
    }
    if !policy.source_terms(subject.source).may_isolate {
        return Some(format!("source {} may not isolate", subject.source));
    }
    (subject.host.level == Level::None).then(|| "the host cannot enforce".to_owned())
}

impl std::fmt::Display for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} by {}", self.verdict, self.rule.as_deref().map_or("no rule".into(), |rule| format!("rule {rule}")))?;
        if let Some(why) = &self.why {
            write!(f, " ({why})")?;
        }
        match self.release_after {
            Some(For::Span(span)) => write!(f, ", until +{span}"),
            Some(For::Never) => f.write_str(", until a person releases it"),
            None => Ok(()),
        }
    }
}
