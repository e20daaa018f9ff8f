//! `lists`: named lists of networks or of words, used as `$name`.

use std::collections::BTreeMap;

use ipnet::IpNet;

use super::error::{At, Errors, did_you_mean, quoted};
use super::peer::{Peer, peer};
use super::read::{entries, list, plain, text};
use super::yaml::Node;

#[derive(Debug, Default)]
pub(super) struct Lists {
    named: BTreeMap<String, Vec<Item>>,
}

#[derive(Debug)]
struct Item {
    at: At,
    text: String,
}

impl Lists {
    pub fn parse(node: &Node, errors: &mut Errors) -> Self {
        let mut named = BTreeMap::new();
        for (key, value) in entries(node, "lists", errors).unwrap_or_default() {
            if !plain(&key.name) {
                errors.push(
                    key.at,
                    format!("the name of list {} is taken as $name; write letters, digits, _ and -", quoted(&key.name)),
                );
            }
            let what = format!("list {}", key.name.escape_debug());
            let mut items = Vec::new();
            for item in list(value, &what, errors).unwrap_or_default() {
                if let Some(written) = text(item, &format!("an entry of {what}"), errors) {
                    if written.starts_with('$') {
                        errors.push(item.at, format!("{what} names another list, {}; write its entries out", quoted(written)));
                    }
                    items.push(Item { at: item.at, text: written.to_owned() });
                }
            }
            named.insert(key.name.clone(), items);
        }
        Self { named }
    }

    /// The entries of `$name` as text to compare with. Networks are refused: a match compares text, and would never hold.
    pub fn words(&self, name: &str, what: &str, at: At, errors: &mut Errors) -> Vec<&str> {
        let mut words = Vec::new();
        for item in self.find(name, what, at, errors) {
            if item.text.contains('/') && item.text.parse::<IpNet>().is_ok() {
                errors.push(
                    at,
                    format!(
                        "{what} compares text, and ${name} holds the network {} (line {}); name addresses",
                        item.text, item.at.line
                    ),
                );
                break;
            }
            words.push(item.text.as_str());
        }
        words
    }

    /// The entries of `$name` as networks and names of hosts.
    pub fn peers(&self, name: &str, what: &str, at: At, errors: &mut Errors) -> Vec<Peer> {
        let items = self.find(name, what, at, errors);
        items.iter().filter_map(|item| peer(&item.text, &format!("${name}"), item.at, errors)).collect()
    }

    fn find(&self, name: &str, what: &str, at: At, errors: &mut Errors) -> &[Item] {
        match self.named.get(name) {
            Some(items) if items.is_empty() => {
                errors.push(at, format!("{what} takes ${name}, an empty list; fill it or leave {what} out"));
                &[]
            }
            Some(items) => items,
            None => {
                let hint = did_you_mean(name, self.named.keys().map(String::as_str));
                errors.push(at, format!("{what} takes {}, but lists has no such list{hint}", quoted(&format!("${name}"))));
                &[]
            }
        }
    }
}
