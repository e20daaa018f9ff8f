//! Context attributes as they are read, of both modes.

use std::collections::BTreeSet;

use chrono::SubsecRound;

use super::{Event, MAX_TEXT, check};
use crate::rejected::Malformed;
use crate::time::Timestamp;

/// Faults that are named; a sender can make as many as a message holds.
pub const MAX_FAULTS: usize = 16;
/// Attributes without which there is no event.
const REQUIRED: [&str; 4] = ["specversion", "id", "source", "type"];
/// The others that have a meaning here or in the specification, all of them text.
const KNOWN: [&str; 7] = ["subject", "time", "datacontenttype", "dataschema", "traceparent", "correlationid", "causationid"];

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Attributes {
    pub id: String,
    pub source: String,
    pub ty: String,
    subject: Option<String>,
    time: Option<Timestamp>,
    traceparent: Option<String>,
    correlation: Option<String>,
    causation: Option<String>,
    /// Media type of the data.
    pub datacontenttype: Option<String>,
    /// What is wrong with those that identify nothing. What is left of them stands in the event.
    pub faults: Vec<Malformed>,
    seen: BTreeSet<String>,
}

/// A value as it was found.
pub enum Found {
    /// Null says the same as absent.
    Null,
    Text(String),
    /// A value of another type that attributes may have.
    Other,
    /// No attribute can have it; why, and what of it is text.
    Bad {
        problem: String,
        left: Option<String>,
    },
}

impl Attributes {
    /// Takes one attribute. An error ends the reading; what is only a fault is kept.
    pub fn take(&mut self, name: &str, found: Found) -> Result<(), Malformed> {
        let fault = |problem: &str| Malformed::Attribute { name: name.to_owned(), problem: problem.to_owned() };
        if self.repeats(name) {
            return Err(fault("appears twice"));
        }
        if REQUIRED.contains(&name) {
            self.seen.insert(name.to_owned());
            let value = match found {
                Found::Text(value) => value,
                Found::Bad { problem, .. } => return Err(fault(&problem)),
                Found::Null | Found::Other => return Err(fault("is no text")),
            };
            return self.required(name, value);
        }
        if let Err(wrong) = check::name(name) {
            self.wrong(wrong);
            return Ok(());
        }
        if !self.seen.insert(name.to_owned()) {
            self.wrong(fault("appears twice; the first one counts"));
            return Ok(());
        }
        let (left, wrong) = match found {
            Found::Null => return Ok(()),
            Found::Text(value) => {
                let wrong = check::attribute(name, &value).err();
                (Some(value), wrong)
            }
            Found::Other => (None, KNOWN.contains(&name).then(|| fault("is no text"))),
            Found::Bad { problem, left } => (left, Some(fault(&problem))),
        };
        let is_sound = wrong.is_none();
        if let Some(wrong) = wrong {
            self.wrong(wrong);
        }
        let text = || left.clone().map(|text| if is_sound { text } else { mended(&text) }).filter(|text| !text.is_empty());
        match name {
            "subject" => self.subject = text(),
            "traceparent" => self.traceparent = text(),
            "correlationid" => self.correlation = text(),
            "causationid" => self.causation = text(),
            "datacontenttype" => self.datacontenttype = text(),
            "time" => self.time = left.as_deref().and_then(check::time),
            _ => {}
        }
        Ok(())
    }

    /// Is this a second one of those that identify the event? No reader knows which one is meant.
    pub fn repeats(&self, name: &str) -> bool {
        REQUIRED.contains(&name) && self.seen.contains(name)
    }

    /// All were taken: is it an event?
    pub fn whole(self) -> Result<Self, Malformed> {
        match REQUIRED.into_iter().find(|name| !self.seen.contains(*name)) {
            None => Ok(self),
            Some("specversion") => Err(Malformed::NotCloudEvent("specversion is missing".into())),
            Some(name) => Err(Malformed::Attribute { name: name.to_owned(), problem: "is missing".to_owned() }),
        }
    }

    pub fn event<T>(self, data: T) -> Event<T> {
        Event {
            id: self.id,
            source: self.source,
            subject: self.subject,
            time: self.time.map(|time| time.trunc_subsecs(9)),
            traceparent: self.traceparent,
            correlation: self.correlation,
            causation: self.causation,
            data,
        }
    }

    fn wrong(&mut self, fault: Malformed) {
        if self.faults.len() < MAX_FAULTS {
            self.faults.push(fault);
        }
    }

    fn required(&mut self, name: &str, value: String) -> Result<(), Malformed> {
        check::attribute(name, &value)?;
        match name {
            "id" => self.id = value,
            "source" => self.source = value,
            "type" => self.ty = value,
            _ => {}
        }
        Ok(())
    }
}

/// What an attribute can hold of a text: no control characters, and no more than fits.
fn mended(text: &str) -> String {
    let mut kept = String::new();
    for c in text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }) {
        if kept.len() + c.len_utf8() > MAX_TEXT {
            break;
        }
        kept.push(c);
    }
    kept
}
