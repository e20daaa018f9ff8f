//! `during` and `outside`: when a rule is in force, by the clock of a place.

use std::fmt;

use chrono::{Datelike, NaiveTime, Timelike, Weekday};
use chrono_tz::Tz;
use portcullis_schemas::Timestamp;

use super::error::{Errors, did_you_mean, quoted};
use super::read::{fields_as, one_or_many_of, raw, text};
use super::yaml::Node;

const DAYS: [(&str, Weekday); 7] = [
    ("mon", Weekday::Mon),
    ("tue", Weekday::Tue),
    ("wed", Weekday::Wed),
    ("thu", Weekday::Thu),
    ("fri", Weekday::Fri),
    ("sat", Weekday::Sat),
    ("sun", Weekday::Sun),
];

const DAY: u32 = 24 * 60;

/// Times of a week.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct During {
    spans: Vec<Weekly>,
    /// Written as `outside`: everything else.
    outside: bool,
}

/// The same hours on some days.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Weekly {
    /// By days from Monday: those on which the hours begin.
    days: [bool; 7],
    /// Minutes of the day: the first, and the one behind the last. Where the end is not later, it is on the next day.
    hours: (u32, u32),
    zone: Tz,
}

impl During {
    pub fn parse(node: &Node, outside: bool, errors: &mut Errors) -> Option<Self> {
        let what = if outside { "outside" } else { "during" };
        let before = errors.count();
        let spans = one_or_many_of(node, what, errors)?.iter().filter_map(|node| Weekly::parse(node, what, errors)).collect();
        (errors.count() == before).then_some(Self { spans, outside })
    }

    pub fn holds(&self, at: Timestamp) -> bool {
        self.spans.iter().any(|span| span.holds(at)) != self.outside
    }
}

impl Weekly {
    fn parse(node: &Node, what: &str, errors: &mut Errors) -> Option<Self> {
        const WANTS: &str = "{ days: [mon-fri], hours: 08:00-18:00, zone: Europe/Berlin }";
        let fields = fields_as(node, what, &["days", "hours", "zone"], WANTS, errors)?;
        let days = match fields.get("days") {
            Some(node) => days(node, errors),
            None => Some([true; 7]),
        };
        let hours = match fields.get("hours") {
            Some(node) => hours(node, errors),
            None => Some((0, DAY)),
        };
        if fields.get("days").is_none() && fields.get("hours").is_none() {
            errors.push(fields.at, format!("{what} is all the time; write days: [mon-fri], hours: 08:00-18:00, or both"));
        }
        let zone = match fields.get("zone") {
            Some(node) => zone(node, errors),
            None => {
                errors.push(fields.at, format!("{what} has no zone; write zone: Europe/Berlin, or zone: UTC"));
                None
            }
        };
        Some(Self { days: days?, hours: hours?, zone: zone? })
    }

    /// By the clock on the wall there: an hour that a change of the clock repeats is there twice, one that it skips is not there.
    fn holds(&self, at: Timestamp) -> bool {
        let local = at.with_timezone(&self.zone);
        let minute = local.hour() * 60 + local.minute();
        let today = local.weekday().num_days_from_monday() as usize;
        let (first, end) = self.hours;
        if first < end {
            return self.days[today] && (first..end).contains(&minute);
        }
        let yesterday = (today + 6) % 7;
        (self.days[today] && minute >= first) || (self.days[yesterday] && minute < end)
    }
}

fn days(node: &Node, errors: &mut Errors) -> Option<[bool; 7]> {
    const WANTS: &str = "days as mon or mon-fri: [mon-fri, sun]";
    let mut found = [false; 7];
    let before = errors.count();
    for item in one_or_many_of(node, "days", errors)? {
        let Some(written) = raw(item, "days", WANTS, errors) else { continue };
        let (first, last) = written.split_once('-').unwrap_or((written, written));
        match (day(first), day(last)) {
            (Some(first), Some(last)) => {
                let mut day = first;
                found[day] = true;
                while day != last {
                    day = (day + 1) % 7;
                    found[day] = true;
                }
            }
            _ => {
                let wrong = if day(first).is_none() { first } else { last };
                let hint = did_you_mean(wrong, DAYS.iter().map(|(name, _)| *name));
                errors.push(item.at, format!("days has {}; write {WANTS}{hint}", quoted(written)));
            }
        }
    }
    (errors.count() == before).then_some(found)
}

fn day(written: &str) -> Option<usize> {
    let found = DAYS.iter().find(|(name, _)| name.eq_ignore_ascii_case(written.trim()));
    found.map(|(_, day)| day.num_days_from_monday() as usize)
}

fn hours(node: &Node, errors: &mut Errors) -> Option<(u32, u32)> {
    const WANTS: &str = "a span of the day: 08:00-18:00; 18:00-08:00 ends on the next day";
    let written = raw(node, "hours", WANTS, errors)?;
    let found = written.split_once('-').and_then(|(first, end)| Some((minute(first, false)?, minute(end, true)?)));
    match found {
        Some((first, end)) if first != end => Some((first, end)),
        Some(_) => {
            errors.push(node.at, format!("hours {written} begin and end together; leave hours out for the whole day"));
            None
        }
        None => {
            errors.push(node.at, format!("hours is {}; write {WANTS}", quoted(written)));
            None
        }
    }
}

/// `08:00`, also `8:00`; `24:00` is an end alone.
fn minute(written: &str, is_end: bool) -> Option<u32> {
    let written = written.trim();
    if is_end && written == "24:00" {
        return Some(DAY);
    }
    let time = NaiveTime::parse_from_str(written, "%H:%M").ok()?;
    Some(time.hour() * 60 + time.minute())
}

fn zone(node: &Node, errors: &mut Errors) -> Option<Tz> {
    let written = text(node, "zone", errors)?;
    let found = written.parse::<Tz>().ok();
    if found.is_none() {
        errors.push(node.at, no_zone(written));
    }
    found
}

fn no_zone(written: &str) -> String {
    let hint = did_you_mean(written, chrono_tz::TZ_VARIANTS.iter().map(|zone| zone.name()));
    format!(
        "zone is {}; write a name of the time zone database, as Europe/Berlin, America/New_York or UTC{hint}",
        quoted(written)
    )
}

impl fmt::Display for During {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<String> = self.spans.iter().map(ToString::to_string).collect();
        write!(f, "{} {}", if self.outside { "outside" } else { "during" }, words.join(" or "))
    }
}

impl fmt::Display for Weekly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named: Vec<&str> = DAYS.iter().zip(self.days).filter(|(_, on)| *on).map(|((name, _), _)| *name).collect();
        let days = if named.len() == DAYS.len() { "every day".to_owned() } else { named.join(", ") };
        let (first, end) = self.hours;
        let clock = |minute: u32| format!("{:02}:{:02}", minute / 60, minute % 60);
        let next = if end < first { " of the next day" } else { "" };
        write!(f, "{days} {}-{}{next} {}", clock(first), clock(end), self.zone.name())
    }
}
