//! Ids from content: the same content has the same id, so that a retry is the same message.

use sha2::{Digest, Sha256};

/// SHA-256 over length-prefixed parts, in hex.
pub fn digest<'a>(parts: impl IntoIterator<Item = &'a str>) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    }
    hex::encode(hash.finalize())
}

/// SHA-256 of a message body, in hex; `prev` of the next order.
pub fn sha256(body: &[u8]) -> String {
    hex::encode(Sha256::digest(body))
}

#[cfg(test)]
mod tests {
    use super::{digest, sha256};

    #[test]
    fn parts_do_not_run_together() {
        let lists: [&[&str]; 6] = [&["a", "bc"], &["ab", "c"], &["abc"], &["abc", ""], &["", "abc"], &[]];
        for (at, list) in lists.iter().enumerate() {
            for other in &lists[at + 1..] {
                assert_ne!(digest(list.iter().copied()), digest(other.iter().copied()), "{list:?} and {other:?}");
            }
        }
        assert_eq!(digest(["a", "bc"]), digest(["a", "bc"]));
    }

    /// Ids are stored: another way to make them would make every retry after an upgrade a new message.
    #[test]
    fn the_digest_stays_as_it_is() {
        assert_eq!(digest(["a", "bc"]), DIGEST_OF_A_BC);
        assert_eq!(sha256(b""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        assert_eq!(sha256(b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    /// `printf '\0\0\0\0\0\0\0\1a\0\0\0\0\0\0\0\2bc' | sha256sum`
    const DIGEST_OF_A_BC: &str = "3fafa1cf2f19a7c1129beb20cf0983f73a489a221fc0dd2f16d1be292d089205";
}
