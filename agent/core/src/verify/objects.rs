//! What nft has listed, object by object. Elements of sets, of which there may be tens of thousands, are read one after the other: only what is
//! compared is kept of each.

use std::fmt;

use nftables::schema::{NfCmd, NfListObject, NfObject, Nftables};
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::spelling::key;

/// A listing as `nft -j` writes it.
///
/// On purpose not the `nftables` crate's types: one object that they do not know fails the whole, and so would hide tampering.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Listing {
    pub objects: Vec<Object>,
}

/// A table, chain, rule, set or whatever else is listed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Object {
    pub kind: String,
    /// Without the elements of a set.
    pub body: Map<String, Value>,
    pub(super) elements: Vec<Element>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Element {
    pub key: String,
    /// None where it counts nothing.
    pub passed: Option<Passed>,
}

/// Since the rules were last written, both ways. A packet that two exclusions let pass counts for both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Passed {
    pub packets: u64,
    pub bytes: u64,
}

impl Listing {
    /// Reads what `nft -j list …` printed; an error where that is no listing.
    pub fn parse(text: &[u8]) -> serde_json::Result<Self> {
        serde_json::from_slice(text)
    }

    /// What `batch` adds, as if it had been listed.
    pub(crate) fn of_batch(batch: &Nftables<'_>) -> impl Iterator<Item = Object> {
        batch.objects.iter().filter_map(|object| match object {
            NfObject::CmdObject(NfCmd::Add(added)) => Some(Object::of(added)),
            _ => None,
        })
    }
}

impl Object {
    fn of(added: &NfListObject<'_>) -> Self {
        if let NfListObject::Element(added) = added {
            let body = [("family", value(&added.family)), ("table", value(&added.table)), ("name", value(&added.name))];
            return Self {
                kind: "element".to_owned(),
                body: body.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
                elements: added.elem.iter().map(|element| Element::of(&value(element))).collect(),
            };
        }
        let Value::Object(object) = value(added) else { return Self::default() };
        let Some((kind, Value::Object(mut body))) = object.into_iter().next() else { return Self::default() };
        let elements = body.remove("elem").and_then(|elem| Some(elem.as_array()?.iter().map(Element::of).collect()));
        Self { kind, body, elements: elements.unwrap_or_default() }
    }

    /// A member of the body that is text, and nothing where it is none.
    pub fn word(&self, name: &str) -> &str {
        self.body.get(name).and_then(Value::as_str).unwrap_or_default()
    }
}

fn value(of: &impl Serialize) -> Value {
    serde_json::to_value(of).unwrap_or_default()
}

impl Element {
    fn of(item: &Value) -> Self {
        let Some(elem) = item.get("elem").and_then(Value::as_object) else { return Self { key: key(item), passed: None } };
        // What counts does not count. Whatever else is said of it is a difference.
        let is_plain = elem.iter().all(|(name, value)| matches!(name.as_str(), "val" | "counter") || value.is_null());
        let number = |what: &str| elem.get("counter")?.get(what)?.as_u64();
        let passed = || Some(Passed { packets: number("packets")?, bytes: number("bytes")? });
        Self { key: if is_plain { elem.get("val").map(key).unwrap_or_default() } else { key(item) }, passed: passed() }
    }
}

impl<'de> Deserialize<'de> for Listing {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Whole)
    }
}

struct Whole;

impl<'de> Visitor<'de> for Whole {
    type Value = Listing;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a listing of nft")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Listing, A::Error> {
        let mut objects = None;
        while let Some(name) = map.next_key::<String>()? {
            match name.as_str() {
                "nftables" => map.next_value_seed(Objects(objects.get_or_insert_default()))?,
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        let objects = objects.ok_or_else(|| A::Error::custom("it has no list called nftables"))?;
        Ok(Listing { objects })
    }
}

/// The list of objects.
struct Objects<'a>(&'a mut Vec<Object>);

impl<'de> DeserializeSeed<'de> for Objects<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Objects<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of objects")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element_seed(Named(self.0))?.is_some() {}
        Ok(())
    }
}

/// `{"kind": body}`.
struct Named<'a>(&'a mut Vec<Object>);

impl<'de> DeserializeSeed<'de> for Named<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Named<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with its kind")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(kind) = map.next_key()? {
            let mut object = Object { kind, ..Object::default() };
            map.next_value_seed(Body(&mut object))?;
            self.0.push(object);
        }
        Ok(())
    }
}

struct Body<'a>(&'a mut Object);

impl<'de> DeserializeSeed<'de> for Body<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Body<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("what is listed of an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key::<String>()? {
            match name.as_str() {
                "elem" => map.next_value_seed(Elements(&mut self.0.elements))?,
                _ => drop(self.0.body.insert(name, map.next_value()?)),
            }
        }
        Ok(())
    }
}

struct Elements<'a>(&'a mut Vec<Element>);

impl<'de> DeserializeSeed<'de> for Elements<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Elements<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of elements")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while let Some(item) = seq.next_element::<Value>()? {
            self.0.push(Element::of(&item));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COUNTED: &str = r#"{"nftables": [{"metainfo": {"version": "1.0.6"}}, {"set": {"family": "inet", "name": "out4", "table": "portcullis",
        "elem": [{"elem": {"val": {"concat": ["10.0.0.1", 443]}, "counter": {"packets": 3, "bytes": 180}}}, {"concat": ["10.0.0.2", 443]},
                 {"elem": {"val": 7, "timeout": 5}}]}}, {"unheard of": {"name": "x"}}]}"#;

    #[test]
    fn elements_are_read_with_what_they_have_counted_and_unknown_objects_are_kept() {
        let listing = Listing::parse(COUNTED.as_bytes()).unwrap();
        let kinds: Vec<&str> = listing.objects.iter().map(|object| object.kind.as_str()).collect();
        assert_eq!(kinds, ["metainfo", "set", "unheard of"]);
        let set = &listing.objects[1];
        assert_eq!((set.word("name"), set.body.contains_key("elem")), ("out4", false));
        let elements: Vec<_> = set.elements.iter().map(|element| (element.key.as_str(), element.passed)).collect();
        let counted = Some(Passed { packets: 3, bytes: 180 });
        assert_eq!(
            elements,
            [("10.0.0.1 . 443", counted), ("10.0.0.2 . 443", None), ("{elem:{timeout:5,val:7}}", None)],
            "what an element has beyond its value shows"
        );
    }

    #[test]
    fn what_is_no_listing_is_an_error() {
        for text in ["", "{}", "[]", r#"{"nftables": {}}"#, r#"{"nftables": [7]}"#, r#"{"nftables": [{"set": {"elem": 7}}]}"#] {
            assert!(Listing::parse(text.as_bytes()).is_err(), "{text:?}");
        }
        assert_eq!(Listing::parse(br#"{"nftables": []}"#).unwrap(), Listing::default());
    }
}
