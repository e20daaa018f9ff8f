//! `profiles`: named lists of exclusions, a policy's own beside the standard ones.

mod parameters;
mod profile;
mod standard;

use std::collections::{BTreeMap, BTreeSet};

use portcullis_schemas::exclusion::Exclusion;

use self::profile::Profile;
use super::entry::MOST;
use super::error::{At, Errors, did_you_mean, one_of, quoted};
use super::lists::Lists;
use super::read::{entries, plain, text};
use super::yaml::{Key, Node, Value};

pub use standard::default_exclusions;

/// A profile as operators see it.
#[derive(Clone, Debug, PartialEq)]
pub struct ProfileView {
    pub name: String,
    /// The policy defines it, or adapts the standard one.
    pub is_own: bool,
    /// Its parameters: name, kind in words, and whether it does not load without.
    pub parameters: Vec<(String, &'static str, bool)>,
    /// What it lets pass; None where a parameter is missing.
    pub exclusions: Option<Vec<Exclusion>>,
}

/// The profiles of a policy, checked. Where it has one of a standard name, that one counts.
#[derive(Default)]
pub(super) struct Profiles {
    own: BTreeMap<String, Own>,
}

/// None where something is wrong with it, which has been said.
type Own = Option<Profile>;

impl Profiles {
    pub fn parse(node: &Node, lists: &Lists, errors: &mut Errors) -> Self {
        let written = entries(node, "profiles", errors).unwrap_or_default();
        if written.len() > MOST {
            errors.push(node.at, format!("profiles has {} entries; at most {MOST} are taken", written.len()));
            return Self::default();
        }
        let written: BTreeMap<&str, (&Key, &Node)> = written.iter().map(|(key, node)| (key.name.as_str(), (key, node))).collect();
        let mut reader = Reader { written, lists, done: BTreeMap::new(), underway: Vec::new(), bases: BTreeSet::new() };
        let names: Vec<(&str, At)> = reader.written.iter().map(|(name, (key, _))| (*name, key.at)).collect();
        for (name, _) in &names {
            reader.own(name, errors);
        }
        for (name, at) in names {
            let extended = reader.bases.contains(name);
            if let Some(own) = reader.done.get_mut(name) {
                own.take_if(|profile| !sound(profile, name, at, extended, lists, errors));
            }
        }
        Self { own: reader.done }
    }

    /// The exclusions of the profile `name`, asked for at `at`.
    pub fn named(&self, name: &str, at: At, lists: &Lists, errors: &mut Errors) -> Vec<Exclusion> {
        let Some(profile) = self.find(name, at, errors) else { return Vec::new() };
        if let Some((words, written)) = profile.missing() {
            let message = format!(
                "profile {name} does not load without {words}; define my-{name}: {{ extends: {name}, {written} }} in profiles, and name that here"
            );
            errors.push(at, message);
            return Vec::new();
        }
        profile.exclusions(name, lists, errors)
    }
}

impl Profiles {
    /// The same with these values for its parameters.
    pub fn given<'n>(
        &self,
        name: &str,
        at: At,
        values: impl Iterator<Item = &'n (Key, Node)>,
        lists: &Lists,
        errors: &mut Errors,
    ) -> Vec<Exclusion> {
        let profile = self.find(name, at, errors).and_then(|profile| profile.with(name, values, lists, errors));
        let Some(profile) = profile else { return Vec::new() };
        if let Some((words, _)) = profile.missing() {
            errors.push(at, format!("profile {name} does not load without {words}"));
            return Vec::new();
        }
        profile.exclusions(name, lists, errors)
    }

    /// All there are, a policy's own first.
    pub fn views(&self, lists: &Lists) -> Vec<ProfileView> {
        let standard = standard::names().filter(|name| !self.own.contains_key(*name));
        let own = self.own.keys().map(|name| (name.as_str(), true));
        let all = own.chain(standard.map(|name| (name, false)));
        all.filter_map(|(name, is_own)| {
            let profile = self.find(name, At::START, &mut Errors::default())?;
            let is_whole = profile.missing().is_none();
            let exclusions = is_whole.then(|| profile.exclusions(name, lists, &mut Errors::default()));
            Some(ProfileView { name: name.to_owned(), is_own, parameters: profile.parameters(), exclusions })
        })
        .collect()
    }

    fn find(&self, name: &str, at: At, errors: &mut Errors) -> Own {
        match self.own.get(name) {
            Some(own) => own.clone(),
            None => {
                let found = standard::load(name);
                if found.is_none() {
                    unknown(name, "there is no profile", self.own.keys().map(String::as_str), at, errors);
                }
                found
            }
        }
    }
}

/// Whether `profile` can be used, or at least extended. A base may leave open what its heirs fill in; what nobody extends is meant to be used as it is.
fn sound(profile: &Profile, name: &str, at: At, extended: bool, lists: &Lists, errors: &mut Errors) -> bool {
    let before = errors.count();
    match profile.missing() {
        Some(_) if extended => {}
        Some((words, written)) => {
            errors.push(at, format!("profile {name} does not load without {words}; write {written} beside extends"));
        }
        None => drop(profile.exclusions(name, lists, errors)),
    }
    errors.count() == before
}

fn unknown<'k>(name: &str, what: &str, own: impl Iterator<Item = &'k str>, at: At, errors: &mut Errors) {
    let hint = did_you_mean(name, own.chain(standard::names().map(|name| name as &'k str)));
    errors.push(at, format!("{what} {}{hint} (standard ones are {})", quoted(name), one_of(standard::names())));
}

struct Reader<'p> {
    written: BTreeMap<&'p str, (&'p Key, &'p Node)>,
    lists: &'p Lists,
    done: BTreeMap<String, Own>,
    /// From the one that was asked for to the one being read.
    underway: Vec<&'p str>,
    /// Profiles that others extend.
    bases: BTreeSet<&'p str>,
}

impl<'p> Reader<'p> {
    fn own(&mut self, name: &str, errors: &mut Errors) -> Own {
        if let Some(done) = self.done.get(name) {
            return done.clone();
        }
        let (name, (key, node)) = self.written.get_key_value(name).map(|(name, found)| (*name, *found))?;
        self.underway.push(name);
        let found = self.read(name, key, node, errors);
        self.underway.pop();
        self.done.insert(name.to_owned(), found.clone());
        found
    }

    fn read(&mut self, name: &'p str, key: &Key, node: &'p Node, errors: &mut Errors) -> Own {
        const WANTS: &str = "{ extends: PROFILE, PARAMETER: value }, or a list of exclusions without names";
        if !plain(name) || name.len() > 64 {
            let message = format!("{} is no name of a profile; write letters, digits, _ and -, at most 64", quoted(name));
            errors.push(key.at, message);
            return None;
        }
        let keys = match &node.value {
            Value::Map(keys) => keys,
            Value::List(items) => {
                if standard::is(name) {
                    errors.push(key.at, taken(name));
                    return None;
                }
                return Profile::written_out(name, node.at, items, errors);
            }
            Value::Text(_) => {
                errors.push(node.at, format!("profile {name} is text; write {WANTS}"));
                return None;
            }
            Value::Refused => return None,
        };
        let Some((_, parent)) = keys.iter().find(|(key, _)| key.name == "extends") else {
            errors.push(node.at, format!("profile {name} extends nothing; write {WANTS}"));
            return None;
        };
        let extended = text(parent, "extends", errors)?;
        if standard::is(name) && extended != name {
            errors.push(key.at, taken(name));
            return None;
        }
        let base = self.base(name, extended, parent.at, errors)?;
        base.with(extended, keys.iter().filter(|(key, _)| key.name != "extends"), self.lists, errors)
    }

    /// The profile that `name` extends. Its own name means the standard one.
    fn base(&mut self, name: &'p str, extended: &'p str, at: At, errors: &mut Errors) -> Own {
        if name == extended && standard::is(name) {
            return standard::load(name);
        }
        if let Some(from) = self.underway.iter().position(|underway| *underway == extended) {
            let circle = [&self.underway[from..], &[extended]].concat().join(" extends ");
            errors
                .push(at, format!("profiles extend each other in a circle: {circle}; end it with a standard profile or a list"));
            return None;
        }
        if self.written.contains_key(extended) {
            self.bases.insert(extended);
            return self.own(extended, errors);
        }
        let found = standard::load(extended);
        if found.is_none() {
            unknown(extended, "there is no profile to extend named", self.written.keys().copied(), at, errors);
        }
        found
    }
}

fn taken(name: &str) -> String {
    format!("{name} is a standard profile; adapt it with {name}: {{ extends: {name} }}, or give yours another name")
}
