//! Which policy decides: the one that the log names last. Its text is read by its hash, by whoever leads and by whoever may lead next.
//!
//! Another one is activated by a request, which names a text in the KV bucket, or by the file of the leader, where none is active yet or the file
//! changed since. Either way it decides from its record in DECISIONS on; that of a request is stored together with the answer, or not at all.

use std::collections::{BTreeSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use portcullis_policy::{Policy, PolicyError};
use portcullis_schemas::Timestamp;
use portcullis_schemas::events::{Decision, PolicyActivated, Verdict};
use portcullis_schemas::rejected::Malformed;

use super::Machine;
use super::batch::Activates;
use super::event::{Command, Delivered, Now, Report};
use super::queue::{Activate, Item};
use super::{read, write};
use crate::deadlines::Monotonic;
use crate::decide::PolicyText;
use crate::{Input, decide};

/// Who activates what stands in the file of `serve --policy`.
pub const FILE: &str = "file";
/// Before a text is read again.
const RETRY: Monotonic = Monotonic::from_secs(1);
/// Errors of a text that stand in the answer to a request.
const SHOWN: usize = 5;

/// What is known of policies beside the one that decides.
#[derive(Default)]
pub(super) struct Policies {
    /// The file's, and when it was read.
    file: Option<(Arc<Policy>, Timestamp)>,
    /// The last record: its hash, who made it and when.
    active: Option<Active>,
    /// The text of the active policy, where it was read.
    loaded: Option<Arc<Policy>>,
    /// The hash of the active policy, whose text is missing or cannot be taken.
    missing: Option<String>,
    /// Texts that are being read.
    reading: BTreeSet<String>,
    /// Those to be read again from this time on.
    again: BTreeSet<(Monotonic, String)>,
    /// Requests whose text is being read.
    asked: Vec<(String, Delivered)>,
    /// Requests whose text was read.
    found: VecDeque<Item>,
    /// That of the file is to be activated.
    next: Option<Arc<Policy>>,
    /// What is on its way to its record.
    activating: Option<Arc<Policy>>,
}

#[derive(Clone, Debug)]
struct Active {
    hash: Option<String>,
    by: String,
    at: Timestamp,
}

impl Policies {
    fn active_hash(&self) -> Option<&str> {
        self.active.as_ref()?.hash.as_deref()
    }

    /// Whether a policy that is to decide is on its way: no detection is decided without it.
    pub(super) fn is_coming(&self) -> bool {
        let active = self.active_hash();
        let is_read = active.is_some_and(|hash| self.missing.as_deref() != Some(hash));
        self.next.is_some() || self.activating.is_some() || is_read
    }

    pub(super) fn is_idle(&self) -> bool {
        self.found.is_empty() && self.asked.is_empty()
    }

    pub(super) fn wake_at(&self) -> Option<Monotonic> {
        self.again.first().map(|(at, _)| *at)
    }

    /// Whether an activation waits for its turn.
    pub(super) fn has_next(&self) -> bool {
        self.next.is_some() || !self.found.is_empty()
    }
}

impl Machine {
    /// The hash of the policy that decides by the logs.
    pub fn active_policy(&self) -> Option<&str> {
        self.policies.active_hash()
    }

    /// The hash of the policy that decides, or will as soon as its record is stored.
    pub fn policy_in_use(&self) -> Option<&str> {
        let coming = self.policies.next.as_ref().or(self.policies.activating.as_ref());
        match &self.policy {
            Some(policy) => Some(policy.hash()),
            None if self.is_leading() => coming.map(|policy| policy.hash()),
            None => self.active_policy().filter(|hash| self.policies.missing.as_deref() != Some(*hash)),
        }
    }

    /// The file was read, for the first time or since it changed. What an operator activated later than it was read first is left alone.
    pub(super) fn policy_file(&mut self, policy: Arc<Policy>, now: Now) {
        let is_known = self.policies.file.as_ref().is_some_and(|(known, _)| known.hash() == policy.hash());
        if is_known {
            return;
        }
        self.policies.file = Some((Arc::clone(&policy), now.broker));
        if self.active_policy() == Some(policy.hash()) {
            // Its text may be missing elsewhere.
            self.loaded(Arc::clone(&policy));
        }
        if self.is_leading() {
            self.policies.next = Some(policy);
        }
    }

    /// A leader begins with the policy of the log. That of its file is activated where there is none, or where the file was read later than the file
    /// of a leader before it was activated.
    pub(super) fn begin_with_policy(&mut self) {
        let active = self.active_policy().map(str::to_owned);
        let file = self.policies.file.as_ref();
        let is_newer = |at: Timestamp| match &self.policies.active {
            Some(Active { hash: Some(_), by, at: activated }) => by == FILE && at > *activated,
            _ => true,
        };
        self.policies.next =
            file.filter(|(policy, at)| Some(policy.hash()) != active.as_deref() && is_newer(*at)).map(|file| Arc::clone(&file.0));
        if let (Some((policy, _)), None, Some(hash)) = (file, &self.policies.next, &active)
            && policy.hash() != hash
        {
            let by = self.policies.active.as_ref().map(|active| active.by.clone()).unwrap_or_default();
            let file = policy.hash().to_owned();
            self.report(Report::FileNotActive { file, active: hash.clone(), by });
        }
        if self.policies.next.is_none() {
            let loaded = self.policies.loaded.as_ref().filter(|policy| Some(policy.hash()) == active.as_deref()).cloned();
            self.decide_by(loaded);
        }
        self.load_active();
    }

    pub(super) fn forget_policies(&mut self) {
        self.policy = None;
        let Policies { next, activating, asked, found, .. } = &mut self.policies;
        (*next, *activating) = (None, None);
        asked.clear();
        found.clear();
    }

    /// Takes the record of an activation, wherever it was read.
    pub(super) fn take_activation(&mut self, record: PolicyActivated, at: Timestamp) {
        let hash = record.hash.clone();
        self.policies.active = Some(Active { hash: record.hash, by: record.activated_by, at });
        // Its own, whose acknowledgement is still waited for.
        let own = self.policies.activating.take_if(|next| Some(next.hash()) == hash.as_deref());
        if let Some(policy) = own {
            self.policies.loaded = Some(Arc::clone(&policy));
            self.decide_by(Some(policy));
            self.report(Report::PolicyActivated { hash });
        }
        if self.has_begun {
            self.load_active();
        }
    }

    /// Has the text of the active policy read, where it is not known.
    pub(super) fn load_active(&mut self) {
        let Some(hash) = self.active_policy().map(str::to_owned) else { return };
        let is_loaded = self.policies.loaded.as_ref().is_some_and(|policy| policy.hash() == hash);
        if is_loaded || self.policies.missing.as_ref() == Some(&hash) {
            return;
        }
        match self.policies.file.as_ref().filter(|(policy, _)| policy.hash() == hash).map(|(policy, _)| Arc::clone(policy)) {
            Some(policy) => self.loaded(policy),
            None => self.read_policy(hash),
        }
    }

    fn loaded(&mut self, policy: Arc<Policy>) {
        self.policies.missing = None;
        if self.is_leading() && self.policies.next.is_none() && self.policies.activating.is_none() {
            self.decide_by(Some(Arc::clone(&policy)));
        } else {
            // A follower counts already, so that taking over takes no longer.
            self.fleet.count_by(&policy);
        }
        self.policies.loaded = Some(policy);
    }

    fn read_policy(&mut self, hash: String) {
        let is_later = self.policies.again.iter().any(|(_, later)| *later == hash);
        if !is_later && self.policies.reading.insert(hash.clone()) {
            self.commands.push_back(Command::FetchPolicy(hash));
        }
    }

    pub(super) fn read_policies_again(&mut self, now: Now) {
        while self.policies.again.first().is_some_and(|(at, _)| *at <= now.boot) {
            let first = self.policies.again.pop_first();
            first.into_iter().for_each(|(_, hash)| self.read_policy(hash));
        }
    }

    /// A text was read; None where none is kept under the hash.
    pub(super) fn policy_read(&mut self, hash: String, text: Result<Option<String>, String>, now: Now) {
        if !self.policies.reading.remove(&hash) {
            return;
        }
        let is_active = self.active_policy() == Some(&hash);
        let found = match text {
            Ok(text) => parse(&hash, text.as_deref()),
            Err(error) => {
                if is_active || self.policies.asked.iter().any(|(wanted, _)| *wanted == hash) {
                    self.report(Report::Retry { step: "read the text of a policy", error, pause: RETRY });
                    self.policies.again.insert((now.boot + RETRY, hash));
                }
                return;
            }
        };
        let (answered, others) = std::mem::take(&mut self.policies.asked).into_iter().partition(|(wanted, _)| *wanted == hash);
        self.policies.asked = others;
        let items =
            Vec::into_iter(answered).map(|(_, delivered)| Item::Activate(Box::new(Activate { delivered, text: found.clone() })));
        self.policies.found.extend(items);
        match found {
            Ok(policy) if is_active => self.loaded(policy),
            Err(problem) if is_active => {
                self.policies.missing = Some(hash.clone());
                self.report(Report::PolicyMissing { hash, problem });
            }
            _ => {}
        }
    }

    /// The hash of the text that a request names, where it cannot be answered without it.
    pub(super) fn wants_text(&self, input: &Input) -> Option<String> {
        let Input::Request { meta, host, request } = input else { return None };
        decide::wants_text(meta, host, request).map(str::to_owned)
    }

    /// Keeps a request until the text of its policy is read.
    pub(super) fn read_first(&mut self, hash: String, delivered: Delivered) {
        self.policies.asked.push((hash.clone(), delivered));
        self.read_policy(hash);
    }

    /// Requests whose text was read go one by one: each is decided when the one before it is active.
    pub(super) fn next_activation(&mut self) -> Option<Item> {
        let is_busy = self.policies.next.is_some() || self.policies.activating.is_some();
        if is_busy { None } else { self.policies.found.pop_front() }
    }

    /// That of the file goes first.
    pub(super) fn next_of_file(&mut self) -> Option<Arc<Policy>> {
        self.policies.next.take_if(|_| self.policies.activating.is_none())
    }

    /// What the file says decides from its record on.
    pub(super) fn activate_file(&mut self, policy: Arc<Policy>, now: Now) {
        if self.active_policy() == Some(policy.hash()) {
            self.policies.loaded = Some(Arc::clone(&policy));
            self.decide_by(Some(policy));
            return;
        }
        let data =
            PolicyActivated { hash: Some(policy.hash().to_owned()), activated_by: FILE.into(), reason: None, term: self.term };
        if let Some(before) = self.active_policy().map(str::to_owned) {
            let notice = decide::policy_notice(policy.hash(), Some(&before), FILE, None);
            self.notify([(notice, now.broker)], now);
        }
        match self.activates(policy, data, now.broker) {
            Ok(activates) => self.record_activation(activates, now),
            Err(why) => self.report(Report::Unanswerable { token: "policy".into(), why }),
        }
    }

    /// What an answered request activates.
    pub(super) fn asked_for(&mut self, item: &Item, decision: &Decision, now: Now) -> Option<Activates> {
        let Item::Activate(activate) = item else { return None };
        let policy = activate.text.as_ref().ok().filter(|_| decision.verdict == Verdict::Apply)?;
        let request = read::request(&activate.delivered.message)?;
        let data = PolicyActivated {
            hash: Some(policy.hash().to_owned()),
            activated_by: decision.input.token.clone(),
            reason: request.reason,
            term: self.term,
        };
        self.activates(Arc::clone(policy), data, decision.facts.now.unwrap_or(now.broker)).ok()
    }

    fn activates(&mut self, policy: Arc<Policy>, data: PolicyActivated, at: Timestamp) -> Result<Activates, Malformed> {
        let record = write::policy(&self.prefix, data.clone(), at)?;
        self.policies.activating = Some(policy);
        Ok(Activates { data, at, record })
    }

    /// Whether its record is not seen in the log yet.
    pub(super) fn is_activating(&self, activates: &Activates) -> bool {
        self.policies.activating.as_ref().map(|next| next.hash()) == activates.data.hash.as_deref()
    }

    pub(super) fn give_up_activation(&mut self) {
        self.policies.activating = None;
    }
}

fn parse(hash: &str, text: Option<&str>) -> PolicyText {
    let Some(text) = text else { return Err("no text is kept under this hash".to_owned()) };
    // A panic ends the work on one text, and nothing else.
    let parsed = catch_unwind(AssertUnwindSafe(|| Policy::parse(text))).map_err(|_| "the text cannot be read".to_owned())?;
    let policy = parsed.map_err(|errors| problem(&errors))?;
    match policy.hash() == hash {
        true => Ok(Arc::new(policy)),
        false => Err(format!("the text that is kept under this hash has another one: {}", policy.hash())),
    }
}

/// The first errors of a text with their places, in one line.
fn problem(errors: &[PolicyError]) -> String {
    let mut shown: Vec<String> = errors.iter().take(SHOWN).map(ToString::to_string).collect();
    if errors.len() > SHOWN {
        shown.push(format!("and {} more", errors.len() - SHOWN));
    }
    shown.join("; ")
}
