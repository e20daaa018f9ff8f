//! `limits`: how many hosts may be isolated automatically, at once and within a window.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use portcullis_schemas::events::Resets;
use portcullis_schemas::time::Span;

use super::HostView;
use super::error::{At, Errors, did_you_mean, one_of, quoted};
use super::groups::Groups;
use super::hosts::Hosts;
use super::lists::Lists;
use super::protect::unique;
use super::rate::Rate;
use super::read::{Fields, fields, list, name, number, raw, word};
use super::view::{Membership, Sees, View};
use super::when::Whens;
use super::yaml::{Node, Value};

/// Each is looked at for each host that is to be isolated.
const MOST: usize = 50;
/// A breaker is not left tripped by its clock for longer.
const LONGEST_RESET: Span = Span::hours(7 * 24);
/// Larger fleets there are not.
const MOST_HOSTS: u64 = 10_000_000;

const KEYS: [&str; 8] = ["name", "match", "when", "by", "isolated", "new", "then", "resets"];

/// One entry of `limits`: of automatic isolation of the hosts that it takes.
#[derive(Clone, Debug)]
pub struct Limit {
    name: String,
    pub(super) hosts: Hosts,
    groups: Arc<Groups>,
    by: Option<By>,
    isolated: Option<Isolated>,
    new: Option<Rate>,
    then: OnLimit,
    resets: Resets,
}

/// What a limit makes of an isolation that would go beyond it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnLimit {
    /// A person is asked.
    #[default]
    Ask,
    /// It is refused.
    Refuse,
}

/// By what hosts are counted apart.
#[derive(Clone, Debug, PartialEq, Eq)]
enum By {
    Label(String),
    Group,
    Role,
    Level,
}

/// The stricter of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Isolated {
    /// In parts of ten thousand.
    share: Option<u64>,
    number: Option<u64>,
}

impl Limit {
    /// Its name, which decisions and notices show.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it is about this host. A condition that fails counts as true.
    pub fn takes(&self, host: &HostView<'_>) -> bool {
        self.hosts.take_or_fail(&self.view(host))
    }

    /// In which counts the host is. None is the count of all that the limit takes, where it has no `by`; a host with several groups or roles is in
    /// the count of each, and a host without any, or without the label, in that of "".
    pub fn scopes(&self, host: &HostView<'_>) -> Vec<Option<String>> {
        let mut scopes: Vec<Option<String>> = match &self.by {
            None => return vec![None],
            Some(By::Label(name)) => vec![host.labels.get(name).cloned()],
            Some(By::Level) => vec![Some(host.level.as_str().to_owned())],
            Some(By::Role) => host.roles.iter().cloned().map(Some).collect(),
            // A group that cannot be told counts the host: the count is rather too high.
            Some(By::Group) => {
                let takes = |at: &usize| self.groups.takes(*at, *host).unwrap_or(true);
                (0..self.groups.names().len()).filter(takes).map(|at| Some(self.groups.names()[at].clone())).collect()
            }
        };
        scopes.sort();
        scopes.dedup();
        match scopes.as_slice() {
            [] | [None] => vec![Some(String::new())],
            _ => scopes,
        }
    }

    /// So many hosts of a scope may be isolated at once, of `base` that it has: the stricter of share and number, at least one. None: any number.
    pub fn most(&self, base: u64) -> Option<u64> {
        let isolated = self.isolated?;
        let share = isolated.share.map(|share| base.saturating_mul(share).div_ceil(10_000));
        [share, isolated.number].into_iter().flatten().min().map(|most| most.max(1))
    }

    /// So many hosts of a scope may be isolated within so long.
    pub fn window(&self) -> Option<(u64, Span)> {
        self.new.map(|new| (new.count, new.per))
    }

    /// What becomes of an isolation beyond it.
    pub fn then(&self) -> OnLimit {
        self.then
    }

    /// How its breaker is reset, beside by an operator.
    pub fn resets(&self) -> Resets {
        self.resets
    }

    /// Whether hosts are counted apart, by a label, group or role.
    pub fn is_scoped(&self) -> bool {
        self.by.is_some()
    }

    fn view<'s>(&'s self, host: &HostView<'s>) -> View<'s> {
        View::of_host(*host, Some(&*self.groups))
    }

    pub(super) fn parse(node: &Node, groups: &Arc<Groups>, lists: &Lists, whens: &Whens<'_>, errors: &mut Errors) -> Vec<Self> {
        let nodes = list(node, "limits", errors).unwrap_or_default();
        if nodes.len() > MOST {
            errors.push(node.at, format!("limits has {} entries; at most {MOST} are taken", nodes.len()));
            return Vec::new();
        }
        let mut names = HashMap::new();
        nodes.iter().filter_map(|node| Self::one(node, groups, lists, whens, &mut names, errors)).collect()
    }

    fn one(
        node: &Node,
        groups: &Arc<Groups>,
        lists: &Lists,
        whens: &Whens<'_>,
        names: &mut HashMap<String, At>,
        errors: &mut Errors,
    ) -> Option<Self> {
        let before = errors.count();
        let fields = fields(node, "a limit", &KEYS, errors)?;
        let name = match fields.get("name") {
            Some(node) => name(node, "name", errors).and_then(|name| unique(name, node.at, "a limit", names, errors)),
            None => {
                errors.push(fields.at, "a limit has no name; give it a short one, decisions show it");
                None
            }
        };
        let hosts = Hosts::parse(&fields, Sees::Host(Some(groups.names())), lists, whens, errors);
        let by = fields.get("by").and_then(|node| by(node, groups, errors));
        let isolated = fields.get("isolated").and_then(|node| isolated(node, errors));
        let new = fields.get("new").and_then(|node| Rate::parse(node, "new", errors));
        if fields.get("isolated").is_none() && fields.get("new").is_none() {
            let message = "a limit limits nothing; write isolated: 5%, new: { count: 20, per: 10m }, or both";
            errors.push(fields.at, message);
        }
        const THEN: [(&str, OnLimit); 2] = [("ask", OnLimit::Ask), ("refuse", OnLimit::Refuse)];
        let then = fields.get("then").and_then(|node| word(node, "then", &THEN, errors)).unwrap_or_default();
        let resets = resets(&fields, errors).unwrap_or_default();
        if errors.count() > before {
            return None;
        }
        Some(Self { name: name?, hosts, groups: Arc::clone(groups), by, isolated, new, then, resets })
    }
}

fn by(node: &Node, groups: &Groups, errors: &mut Errors) -> Option<By> {
    const KNOWN: [&str; 4] = ["host.label.NAME", "host.group", "host.role", "host.level"];
    let written = raw(node, "by", &one_of(KNOWN), errors)?;
    match written {
        "host.group" if groups.names().is_empty() => {
            errors.push(node.at, "by is host.group, and there are no groups; define them in groups");
            None
        }
        "host.group" => Some(By::Group),
        "host.role" => Some(By::Role),
        "host.level" => Some(By::Level),
        _ => match written.strip_prefix("host.label.").filter(|label| !label.is_empty()) {
            Some(label) => {
                errors.mention_label(node.at, label);
                Some(By::Label(label.to_owned()))
            }
            None => {
                let hint = did_you_mean(written, KNOWN);
                errors.push(node.at, format!("by is {}; write {}{hint}", quoted(written), one_of(KNOWN)));
                None
            }
        },
    }
}

fn isolated(node: &Node, errors: &mut Errors) -> Option<Isolated> {
    const WANTS: &str = "a share (5%), a number of hosts (10), or { share: 5%, number: 10 }";
    if let Value::Map(_) = node.value {
        let fields = fields(node, "isolated", &["share", "number"], errors)?;
        if fields.get("share").is_none() && fields.get("number").is_none() {
            errors.push(fields.at, format!("isolated is empty; write {WANTS}"));
            return None;
        }
        let share = fields.get("share").map(|node| share(node, "share", errors));
        let number = fields.get("number").map(|node| number(node, "number", 1, MOST_HOSTS, errors));
        // One that is wrong is no limit that is left out.
        return Some(Isolated { share: share.map_or(Some(None), |found| found.map(Some))?, number: number.flatten() });
    }
    let written = raw(node, "isolated", WANTS, errors)?;
    if written.ends_with('%') {
        return share(node, "isolated", errors).map(|share| Isolated { share: Some(share), number: None });
    }
    let digits = !written.is_empty() && written.bytes().all(|b| b.is_ascii_digit());
    match written.parse().ok().filter(|found| digits && (1..=MOST_HOSTS).contains(found)) {
        Some(number) => Some(Isolated { share: None, number: Some(number) }),
        None => {
            errors.push(node.at, format!("isolated is {}; write {WANTS}", quoted(written)));
            None
        }
    }
}

/// `5%` or `2.5%`, above 0 and at most 100, in parts of ten thousand.
fn share(node: &Node, what: &str, errors: &mut Errors) -> Option<u64> {
    const WANTS: &str = "a share above 0% and up to 100%: 5%, or 2.5%";
    let written = raw(node, what, WANTS, errors)?;
    let parsed = written.strip_suffix('%').and_then(|digits| {
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
        let digits = |part: &str, most: usize| (1..=most).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
        let sound = digits(whole, 3) && digits(fraction, 2);
        let hundredths = |fraction: &str| format!("{fraction:0<2}").parse::<u64>().ok();
        sound.then(|| Some(whole.parse::<u64>().ok()? * 100 + hundredths(fraction)?)).flatten()
    });
    let found = parsed.filter(|share| (1..=10_000).contains(share));
    if found.is_none() {
        errors.push(node.at, format!("{what} is {}; write {WANTS}", quoted(written)));
    }
    found
}

fn resets(fields: &Fields<'_>, errors: &mut Errors) -> Option<Resets> {
    const WANTS: &str = "below (as soon as it is no longer reached), a duration (30m), or manual";
    let node = fields.get("resets")?;
    match raw(node, "resets", WANTS, errors)? {
        "below" => Some(Resets::Below),
        "manual" => Some(Resets::Manual),
        written => match written.parse::<Span>() {
            Ok(span) if span.as_secs() > 0 && span <= LONGEST_RESET => Some(Resets::After(span)),
            Ok(span) => {
                errors.push(node.at, format!("resets is {span}; write a duration of at most {LONGEST_RESET}, or manual"));
                None
            }
            Err(_) => {
                let hint = did_you_mean(written, ["below", "manual"]);
                errors.push(node.at, format!("resets is {}; write {WANTS}{hint}", quoted(written)));
                None
            }
        },
    }
}

/// What it limits, in words.
impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        if let Some(Isolated { share, number }) = self.isolated {
            let share = share.map(|share| match (share / 100, share % 100) {
                (whole, 0) => format!("{whole}%"),
                (whole, rest) => format!("{whole}.{}%", format!("{rest:02}").trim_end_matches('0')),
            });
            let number = number.map(|number| format!("{number} hosts"));
            let both: Vec<String> = share.into_iter().chain(number).collect();
            parts.push(format!("at most {} isolated at once", both.join(" and ")));
        }
        if let Some(Rate { count, per }) = self.new {
            parts.push(format!("at most {count} newly isolated in {per}"));
        }
        f.write_str(&parts.join(", "))?;
        match &self.by {
            None => {}
            Some(By::Label(name)) => write!(f, ", for each host.label.{}", name.escape_debug())?,
            Some(By::Group) => f.write_str(", for each host.group")?,
            Some(By::Role) => f.write_str(", for each host.role")?,
            Some(By::Level) => f.write_str(", for each host.level")?,
        }
        f.write_str(match self.then {
            OnLimit::Ask => "; beyond it a person is asked",
            OnLimit::Refuse => "; beyond it isolation is refused",
        })?;
        match self.resets {
            Resets::Below => f.write_str(", until it is no longer reached"),
            Resets::After(span) => write!(f, ", for at least {span}"),
            Resets::Manual => f.write_str(", until an operator resets it"),
        }
    }
}
