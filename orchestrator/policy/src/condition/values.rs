//! A subject as the values of the cel crate, with which evaluation is compared. Nothing is ever missing: absent text is "", absent confidence 0.

use std::collections::{BTreeMap, HashMap};

use cel::common::traits::{Container, Indexer};
use cel::common::types::{CelBool, CelInt, CelList, CelMap, CelMapKey, CelString, Type};
use cel::common::value::{CowVal, Val};
use cel::{Context, ExecutionError};
use portcullis_schemas::Timestamp;
use portcullis_schemas::events::Severity;

use crate::view::{Seen, View};

type Boxed<'v> = Box<dyn Val + 'v>;

pub(super) fn add<'v>(context: &mut Context<'_, 'v>, view: &View<'v>, groups: &[&'v str]) {
    let host = view.host;
    let value = object([
        ("id", text(host.id)),
        ("name", text(host.name)),
        ("label", Box::new(Labels(host.labels))),
        ("roles", texts(host.roles)),
        ("groups", Box::new(CelList::from(groups.iter().map(|name| text(name)).collect::<Vec<_>>()))),
        ("level", text(host.level.as_str())),
    ]);
    context.add_variable_as_val("host", value);
    if let Some(event) = view.event {
        add_event(context, event);
    }
}

fn add_event<'v>(context: &mut Context<'_, 'v>, event: Seen<'v>) {
    let detection = event.detection;
    let indicator = detection.indicator.as_ref();
    let claim = &detection.host;
    let rule = object([("id", text(&detection.rule.id)), ("name", text(&detection.rule.name))]);
    let indicator = object([
        ("type", text(indicator.map_or("", |indicator| &indicator.kind))),
        ("value", text(indicator.map_or("", |indicator| &indicator.value))),
    ]);
    let claim = object([("id", optional(&claim.id)), ("hostname", optional(&claim.hostname)), ("ips", texts(&claim.ips))]);
    let value = object([
        ("severity", text(detection.severity.as_str())),
        ("severity_rank", int(rank(detection.severity))),
        ("confidence", int(i64::from(detection.confidence.unwrap_or(0)))),
        ("has_confidence", Box::new(CelBool::from(detection.confidence.is_some()))),
        ("rule", rule),
        ("techniques", texts(&detection.techniques)),
        ("product", text(&detection.product)),
        ("indicator", indicator),
        ("host", claim),
        ("observed_at", Box::new(CelString::from(time(detection.observed_at)))),
        ("age", int((event.at - detection.observed_at).num_seconds())),
        ("incident", optional(&detection.incident)),
        ("url", optional(&detection.url)),
        ("user", optional(&detection.user)),
        ("process", optional(&detection.process)),
        ("retracts", optional(&detection.retracts)),
    ]);
    context.add_variable_as_val("detection", value);
    context.add_variable_as_val("source", text(event.source));
    context.add_variable_as_val("now", Box::new(CelString::from(time(event.at))));
}

fn time(time: Timestamp) -> String {
    time.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true)
}

fn rank(severity: Severity) -> i64 {
    match severity {
        Severity::Unknown => 0,
        Severity::Informational => 1,
        Severity::Low => 2,
        Severity::Medium => 3,
        Severity::High => 4,
        Severity::Critical => 5,
    }
}

fn object<'v, const N: usize>(fields: [(&'static str, Boxed<'v>); N]) -> Boxed<'v> {
    let fields: HashMap<CelMapKey<'v>, Boxed<'v>> = fields.into_iter().map(|(name, value)| (name.into(), value)).collect();
    Box::new(CelMap::from(fields))
}

fn text(text: &str) -> Boxed<'_> {
    Box::new(CelString::from(text))
}

fn optional(text: &Option<String>) -> Boxed<'_> {
    self::text(text.as_deref().unwrap_or_default())
}

fn texts(texts: &[String]) -> Boxed<'_> {
    Box::new(CelList::from(texts.iter().map(|item| text(item)).collect::<Vec<_>>()))
}

fn int(int: i64) -> Boxed<'static> {
    Box::new(CelInt::from(int))
}

/// Labels by name; one that is absent is "".
#[derive(Clone, Copy, Debug)]
struct Labels<'a>(&'a BTreeMap<String, String>);

static LABELS: Type = Type::new_unspecified_type("labels");

impl Val for Labels<'_> {
    fn get_type(&self) -> &Type {
        &LABELS
    }

    fn cel_type() -> &'static Type {
        &LABELS
    }

    fn as_indexer<'b, 'v>(&'b self) -> Option<&'b (dyn Indexer + 'v)>
    where
        Self: 'v,
    {
        Some(self)
    }

    fn as_container(&self) -> Option<&dyn Container> {
        Some(self)
    }

    fn clone_as_boxed<'v>(&self) -> Box<dyn Val + 'v>
    where
        Self: 'v,
    {
        Box::new(*self)
    }
}

impl Indexer for Labels<'_> {
    fn get<'b, 'v>(&'b self, name: &dyn Val) -> Result<CowVal<'b, 'v>, ExecutionError>
    where
        Self: 'v,
    {
        let label = self.0.get(key(name)?).map_or("", String::as_str);
        Ok(CowVal::owned(CelString::from(label.to_owned())))
    }

    fn steal<'v>(self: Box<Self>, name: &dyn Val) -> Result<Box<dyn Val + 'v>, ExecutionError>
    where
        Self: 'v,
    {
        self.get(name).map(CowVal::into_owned)
    }
}

impl Container for Labels<'_> {
    fn contains(&self, name: &dyn Val) -> Result<bool, ExecutionError> {
        Ok(self.0.contains_key(key(name)?))
    }
}

fn key<'k>(name: &'k dyn Val) -> Result<&'k str, ExecutionError> {
    match name.downcast_ref::<CelString<'k>>() {
        Some(name) => Ok(name.inner()),
        None => Err(ExecutionError::UnexpectedType { got: name.get_type().name().to_owned(), want: "string".to_owned() }),
    }
}
