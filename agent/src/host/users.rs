//! Local users by name, as /etc/passwd has them. Not by the C library's way, which may ask the network.

use std::collections::BTreeMap;
use std::fs;

use portcullis_schemas::exclusion::Exclusion;

const PASSWD: &str = "/etc/passwd";

/// The uids of the users that the exclusions name; who is not there is left out.
pub fn named(exclusions: &[Exclusion]) -> BTreeMap<String, u32> {
    let mut wanted =
        exclusions.iter().filter_map(|exclusion| exclusion.user.as_ref()).filter(|user| user.number().is_none()).peekable();
    if wanted.peek().is_none() {
        return BTreeMap::new();
    }
    let text = fs::read_to_string(PASSWD).unwrap_or_default();
    wanted.filter_map(|user| Some((user.as_str().to_owned(), uid(&text, user.as_str())?))).collect()
}

/// The first entry counts, as for the C library.
fn uid(passwd: &str, name: &str) -> Option<u32> {
    let mut fields = passwd.lines().map(|line| line.split(':')).find(|fields| fields.clone().next() == Some(name))?;
    fields.nth(2)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_found_by_the_whole_name() {
        let passwd =
            "root:x:0:0:root:/root:/bin/sh\nweb2:x:7:7::/:/bin/sh\nweb:x:8:8::/:/bin/sh\nweb:x:9:9::/:/bin/sh\nodd\nbad:x:y:0\n";
        let found = ["root", "web", "web2", "we", "odd", "bad", "x"].map(|name| uid(passwd, name));
        assert_eq!(found, [Some(0), Some(8), Some(7), None, None, None, None]);
    }
}
