//! Subjects and streams: where each kind of event travels and is kept.

use std::fmt;
use std::str::FromStr;

use crate::host_id::HostId;

/// First token of every subject. Several sites can share one NATS cluster under different prefixes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Prefix(String);

/// A text is no prefix; the text is kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no subject prefix; write 1 to 32 of a-z, 0-9, '_' and '-', a letter or digit first, and neither kv nor kv_… (KV buckets are called so)"
)]
pub struct PrefixError(String);

/// The streams that Portcullis keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stream {
    /// What sensors saw; by source.
    Detections,
    /// What operators ask for; by principal and host.
    Requests,
    /// Deadlines that came; by host.
    Releases,
    /// The truth: what each host is to enforce; by host.
    Orders,
    /// One answer or more to each input; by host.
    Decisions,
    /// What hosts enforce; by host.
    States,
    /// Who the hosts are; by host.
    Inventory,
    /// Events for people; by host.
    Notices,
    /// What could not be understood; by source.
    Rejected,
}

impl Stream {
    /// Orders, requests, releases and decisions first: they have their storage reserved before anything that a flood can fill.
    pub const ALL: [Stream; 9] = [
        Stream::Orders,
        Stream::Requests,
        Stream::Releases,
        Stream::Decisions,
        Stream::States,
        Stream::Inventory,
        Stream::Notices,
        Stream::Detections,
        Stream::Rejected,
    ];

    /// The token after the prefix.
    pub fn token(self) -> &'static str {
        match self {
            Stream::Detections => "detection",
            Stream::Requests => "request",
            Stream::Releases => "release-due",
            Stream::Orders => "order",
            Stream::Decisions => "decision",
            Stream::States => "state",
            Stream::Inventory => "inventory",
            Stream::Notices => "notice",
            Stream::Rejected => "rejected",
        }
    }

    /// Whether it is kept by sender, who may have several tokens, and not by host.
    fn is_open(self) -> bool {
        matches!(self, Stream::Detections | Stream::Requests | Stream::Rejected)
    }

    fn suffix(self) -> &'static str {
        match self {
            Stream::Detections => "DETECTIONS",
            Stream::Requests => "REQUESTS",
            Stream::Releases => "RELEASES",
            Stream::Orders => "ORDERS",
            Stream::Decisions => "DECISIONS",
            Stream::States => "STATES",
            Stream::Inventory => "INVENTORY",
            Stream::Notices => "NOTICES",
            Stream::Rejected => "REJECTED",
        }
    }
}

/// What stands in the place of a host where there is none.
pub const FLEET: &str = "_fleet";
/// No host was found: of decisions.
pub const UNRESOLVED: &str = "_unresolved";
/// Answers to many inputs at once: of decisions.
pub const PAGES: &str = "_pages";
/// Who leads: of decisions and of orders.
pub const TERM: &str = "_term";
/// Which policy decides: of decisions.
pub const POLICY: &str = "_policy";

impl Prefix {
    /// Checks `text`: 1 to 32 of `a-z`, `0-9`, `_` and `-`, a letter or digit first, and no name of KV buckets.
    pub fn new(text: impl Into<String>) -> Result<Self, PrefixError> {
        let text = text.into();
        let mut bytes = text.bytes();
        let first = bytes.next().is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        let rest = bytes.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-');
        // The stream of the bucket of a site called `orders` would be ORDERS of one called `kv`.
        let is_bucket = text == "kv" || text.starts_with("kv_");
        if first && rest && text.len() <= 32 && !is_bucket { Ok(Self(text)) } else { Err(PrefixError(text)) }
    }

    /// The prefix as it stands in subjects.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Name of a stream: the prefix in upper case, then the kind, as in `PORTCULLIS_ORDERS`.
    pub fn stream(&self, stream: Stream) -> String {
        format!("{}_{}", self.0.to_ascii_uppercase(), stream.suffix())
    }

    /// Name of the KV bucket.
    pub fn bucket(&self) -> String {
        self.0.to_ascii_uppercase()
    }

    /// All subjects of a stream. One token follows where it is a host, one or more where it is a sender.
    pub fn all(&self, stream: Stream) -> String {
        let open = if stream.is_open() { ">" } else { "*" };
        format!("{}.{}.{open}", self.0, stream.token())
    }

    /// The subject of one host (or of `_fleet`, `_unresolved`) in a stream that is kept by host.
    pub fn of(&self, stream: Stream, token: &str) -> String {
        format!("{}.{}.{token}", self.0, stream.token())
    }

    /// The subject of a request. `principal` is one token ([`is_token`]); `host` is a host id or [`FLEET`].
    pub fn request(&self, principal: &str, host: &str) -> String {
        format!("{}.request.{principal}.{host}", self.0)
    }

    /// Where stored orders are heard. Agents listen here and never on the order's own subject: a plain subscriber there hears
    /// publishes that then lose their compare-and-set.
    pub fn live(&self, host: &HostId) -> String {
        format!("{}.live.{host}", self.0)
    }

    /// Source and destination of the republication of orders, in the server's own mapping syntax.
    pub fn republish(&self) -> (String, String) {
        (self.all(Stream::Orders), format!("{}.live.{{{{wildcard(1)}}}}", self.0))
    }

    /// Where an agent says who it is; not stored.
    pub fn hello(&self, host: &HostId) -> String {
        format!("{}.hello.{host}", self.0)
    }

    /// Where all agents are heard.
    pub fn all_hello(&self) -> String {
        format!("{}.hello.*", self.0)
    }

    /// Where agents are asked for a hello; not stored.
    pub fn rollcall(&self) -> String {
        format!("{}.rollcall", self.0)
    }

    /// Everything under the prefix.
    pub fn everything(&self) -> String {
        format!("{}.>", self.0)
    }

    /// Does anything of Portcullis take what is published here: a stream, an agent, an orchestrator?
    pub fn is_taken(&self, subject: &str) -> bool {
        if subject == self.rollcall() {
            return true;
        }
        let rest = subject.strip_prefix(self.0.as_str()).and_then(|rest| rest.strip_prefix('.'));
        let Some((kind, tail)) = rest.and_then(|rest| rest.split_once('.')) else { return false };
        match Stream::ALL.into_iter().find(|stream| stream.token() == kind) {
            Some(stream) if stream.is_open() => !tail.is_empty(),
            Some(_) => !tail.is_empty() && !tail.contains('.'),
            None => matches!(kind, "hello" | "live") && !tail.is_empty() && !tail.contains('.'),
        }
    }

    /// The tokens after `<prefix>.<kind>.`, or None where the subject is of another kind.
    pub fn rest<'a>(&self, kind: &str, subject: &'a str) -> Option<&'a str> {
        let rest = subject.strip_prefix(self.0.as_str())?.strip_prefix('.')?;
        let rest = rest.strip_prefix(kind)?.strip_prefix('.')?;
        (!rest.is_empty()).then_some(rest)
    }

    /// Principal and host (or `_fleet`) of a request's subject.
    pub fn request_parts<'a>(&self, subject: &'a str) -> Option<(&'a str, &'a str)> {
        let (principal, host) = self.rest("request", subject)?.split_once('.')?;
        (!host.contains('.') && !principal.is_empty() && !host.is_empty()).then_some((principal, host))
    }

    /// The host of `<prefix>.<kind>.<host>`.
    pub fn host(&self, kind: &str, subject: &str) -> Option<HostId> {
        self.rest(kind, subject)?.parse().ok()
    }
}

impl Default for Prefix {
    fn default() -> Self {
        Self("portcullis".to_owned())
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Prefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, PrefixError> {
        Self::new(text)
    }
}

/// Can `text` be one token of a subject? NATS allows all but white space, `.`, `*` and `>`; a principal is kept to printable ASCII.
pub fn is_token(text: &str) -> bool {
    !text.is_empty() && text.len() <= 128 && text.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'.' | b'*' | b'>'))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{FLEET, Prefix, Stream, UNRESOLVED, is_token};
    use crate::host_id::HostId;

    #[test]
    fn what_is_a_prefix() {
        let longest = "p".repeat(32);
        for good in ["portcullis", "a", "7", "site-1", "a_b", "kv2", "kva", &longest] {
            assert_eq!(Prefix::new(good).expect(good).as_str(), good);
            assert_eq!(good.parse::<Prefix>().expect(good).to_string(), good);
        }
        let too_long = "p".repeat(33);
        for bad in ["", "_site", "-site", "Site", "a.b", "a*", ">", "a b", "ä", "$SYS", "kv", "kv_orders", &too_long] {
            let error = Prefix::new(bad).expect_err(bad).to_string();
            assert!(error.contains(&format!("{bad:?}")), "{error}");
        }
        assert_eq!(Prefix::new("portcullis").expect("the usual one"), Prefix::default());
    }

    #[test]
    fn streams_carry_the_prefix_and_differ() {
        let prefix = Prefix::new("site-1").expect("a prefix");
        assert_eq!(Prefix::default().stream(Stream::Orders), "PORTCULLIS_ORDERS");
        assert_eq!(prefix.stream(Stream::Releases), "SITE-1_RELEASES");
        assert_eq!(prefix.bucket(), "SITE-1");
        let names: BTreeSet<String> = Stream::ALL.iter().map(|stream| prefix.stream(*stream)).collect();
        let subjects: BTreeSet<String> = Stream::ALL.iter().map(|stream| prefix.all(*stream)).collect();
        assert_eq!((names.len(), subjects.len()), (Stream::ALL.len(), Stream::ALL.len()));
    }

    #[test]
    fn senders_have_tokens_behind_them_and_hosts_one() {
        let prefix = Prefix::default();
        let open: Vec<_> = Stream::ALL.into_iter().filter(|stream| prefix.all(*stream).ends_with('>')).collect();
        assert_eq!(open, [Stream::Requests, Stream::Detections, Stream::Rejected]);
        assert_eq!(prefix.all(Stream::Orders), "portcullis.order.*");
        assert_eq!(prefix.all(Stream::Releases), "portcullis.release-due.*");
    }

    #[test]
    fn what_nothing_takes_is_told_from_what_something_does() {
        let prefix = Prefix::new("site-1").expect("a prefix");
        let host: HostId = "web-1".parse().expect("an id");
        let mut taken: Vec<String> = Stream::ALL.iter().map(|stream| prefix.of(*stream, "web-1")).collect();
        taken.extend([prefix.hello(&host), prefix.live(&host), prefix.request("alice", FLEET)]);
        taken.extend(["site-1.detection.siem.elastic".into(), prefix.rollcall()]);
        for subject in taken {
            assert!(prefix.is_taken(&subject), "{subject}");
        }
        for subject in [
            "site-1.detection",
            "site-1.detection.",
            "site-1.detections.siem",
            "site-1.Detection.siem",
            "site-1.order.web-1.more",
            "site-1.hello.web-1.more",
            "site-1.live",
            "site-1.rollcall.web-1",
            "portcullis.rollcall",
            "site-1.x",
            "site-1",
            "site-10.detection.siem",
            "portcullis.detection.siem",
        ] {
            assert!(!prefix.is_taken(subject), "{subject}");
        }
    }

    #[test]
    fn subjects_of_hosts() {
        let prefix = Prefix::default();
        let host: HostId = "web-1".parse().expect("an id");
        assert_eq!(prefix.of(Stream::States, host.as_str()), "portcullis.state.web-1");
        assert_eq!(prefix.of(Stream::Decisions, UNRESOLVED), "portcullis.decision._unresolved");
        assert_eq!((prefix.hello(&host).as_str(), prefix.all_hello().as_str()), ("portcullis.hello.web-1", "portcullis.hello.*"));
        assert_eq!(prefix.host("state", "portcullis.state.web-1"), Some(host));
    }

    #[test]
    fn tokens_with_a_leading_underscore_are_no_hosts() {
        let prefix = Prefix::default();
        for token in [FLEET, UNRESOLVED, "_pages"] {
            assert!(HostId::new(token).is_err(), "{token}");
            assert_eq!(prefix.host("decision", &prefix.of(Stream::Decisions, token)), None);
        }
    }

    #[test]
    fn a_subject_of_another_kind_or_prefix_has_no_host() {
        let prefix = Prefix::default();
        let others = [
            "portcullis.state",
            "portcullis.state.",
            "portcullis.states.web-1",
            "portcullis.order.web-1",
            "portcullisx.state.web-1",
            "portcullis-2.state.web-1",
            "x.portcullis.state.web-1",
            "Portcullis.state.web-1",
            "portcullis.state.web-1.more",
            "portcullis.state.*",
            "",
        ];
        for subject in others {
            assert_eq!(prefix.host("state", subject), None, "{subject:?}");
        }
    }

    #[test]
    fn requests_name_principal_and_host() {
        let prefix = Prefix::default();
        assert_eq!(prefix.request_parts(&prefix.request("alice", "web-1")), Some(("alice", "web-1")));
        assert_eq!(prefix.request_parts(&prefix.request("alice", FLEET)), Some(("alice", FLEET)));
        let others = [
            "portcullis.request.alice",
            "portcullis.request..web-1",
            "portcullis.request.alice.",
            "portcullis.request.alice.web-1.more",
            "portcullis.order.alice.web-1",
            "other.request.alice.web-1",
        ];
        for subject in others {
            assert_eq!(prefix.request_parts(subject), None, "{subject:?}");
        }
    }

    #[test]
    fn orders_are_heard_live_where_the_republication_puts_them() {
        let prefix = Prefix::new("site-1").expect("a prefix");
        let host: HostId = "web-1".parse().expect("an id");
        let (source, destination) = prefix.republish();
        assert_eq!((source.as_str(), destination.as_str()), ("site-1.order.*", "site-1.live.{{wildcard(1)}}"));
        // As the server does it: the token at the first wildcard goes where its number stands.
        let order = prefix.of(Stream::Orders, host.as_str());
        let token = order.strip_prefix(source.trim_end_matches('*')).expect("the source covers the order");
        assert_eq!(destination.replace("{{wildcard(1)}}", token), prefix.live(&host));
        // A republication into one of the stream's own subjects is a loop, which the server refuses.
        assert!(Stream::ALL.iter().all(|stream| stream.token() != "live"));
    }

    #[test]
    fn what_is_a_token() {
        let longest = "t".repeat(128);
        for good in ["alice", "_fleet", "a@b", "UABC$7", "~", &longest] {
            assert!(is_token(good), "{good:?}");
        }
        let too_long = "t".repeat(129);
        for bad in ["", "a.b", "*", "a>", "a b", "a\tb", "a\n", "ä", "\u{7f}", &too_long] {
            assert!(!is_token(bad), "{bad:?}");
        }
    }
}
