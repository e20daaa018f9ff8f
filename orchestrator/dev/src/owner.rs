//! Says which process a lab belongs to, so that what a dead one left behind can be told from a living one's.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::error::{Error, Result, Tried};

pub(crate) const DIRECTORY: &str = "/run/portcullis-lab";

/// The right to a lab's name, held as a lock on its owner file: the kernel lets go of it when the process dies in
/// whatever way, and no reused pid can be mistaken for the owner. The pid in the file is for people.
#[derive(Debug)]
pub(crate) struct Ownership {
    directory: PathBuf,
    _file: File,
}

impl Ownership {
    pub(crate) fn take(root: &Path, name: &str) -> Result<Self> {
        // Somebody who is just cleaning up under this name is waited for.
        let deadline = Instant::now() + Duration::from_secs(1);
        loop {
            match Self::try_take(root, name, true).tried(|| format!("write the owner file of lab {name:?} under {root:?}"))? {
                Taken::Ours(ownership) => return Ok(ownership),
                Taken::Theirs { pid } if Instant::now() > deadline => {
                    return Err(Error::Owned { name: name.to_owned(), pid });
                }
                Taken::Theirs { .. } => std::thread::sleep(Duration::from_millis(20)),
                Taken::Again => {}
            }
        }
    }

    /// What somebody has left behind; nothing if it is somebody's, or gone by now.
    pub(crate) fn take_if_free(root: &Path, name: &str) -> Result<Option<Self>> {
        match Self::try_take(root, name, false).tried(|| format!("write the owner file of lab {name:?} under {root:?}"))? {
            Taken::Ours(ownership) => Ok(Some(ownership)),
            Taken::Theirs { .. } | Taken::Again => Ok(None),
        }
    }

    fn try_take(root: &Path, name: &str, make: bool) -> io::Result<Taken> {
        let directory = root.join(name);
        let path = directory.join("owner");
        if make {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory)?;
        }
        let opened = OpenOptions::new().read(true).write(true).create(make).truncate(false).open(&path);
        let mut file = match opened {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Taken::Again),
            other => other?,
        };
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                file.read_to_string(&mut pid)?;
                return Ok(Taken::Theirs { pid: pid.trim().to_owned() });
            }
            Err(TryLockError::Error(error)) => return Err(error),
        }
        // The one before may have removed the file between our opening and our locking it.
        let here = file.metadata()?;
        if !fs::metadata(&path).is_ok_and(|there| there.ino() == here.ino() && there.dev() == here.dev()) {
            return Ok(Taken::Again);
        }
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "{}", std::process::id())?;
        Ok(Taken::Ours(Self { directory, _file: file }))
    }
}

impl Drop for Ownership {
    fn drop(&mut self) {
        let _gone_already = fs::remove_file(self.directory.join("owner"));
        let _others_may_want_it = fs::remove_dir(&self.directory);
    }
}

enum Taken {
    Ours(Ownership),
    Theirs { pid: String },
    Again,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_owner_at_a_time_and_the_error_names_it() {
        let root = scratch("one");
        let first = Ownership::take(&root, "x").unwrap();
        let error = Ownership::take(&root, "x").unwrap_err();
        assert!(error.to_string().contains(&std::process::id().to_string()), "{error}");
        assert!(Ownership::take_if_free(&root, "x").unwrap().is_none());
        assert!(Ownership::take(&root, "y").is_ok(), "another name is another lab");
        assert!(Ownership::take_if_free(&root, "z").unwrap().is_none() && !root.join("z").exists(), "made by looking");
        drop(first);
        assert!(!root.join("x").exists());
        assert!(Ownership::take(&root, "x").is_ok());
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn a_file_without_a_living_owner_is_free_whatever_it_says() {
        let root = scratch("dead");
        fs::create_dir_all(root.join("x")).unwrap();
        fs::write(root.join("x/owner"), "1 rubbish, and longer than a pid\n").unwrap();
        let _ours = Ownership::take(&root, "x").unwrap();
        let text = fs::read_to_string(root.join("x/owner")).unwrap();
        assert_eq!(text.trim(), std::process::id().to_string());
        fs::remove_dir_all(root).unwrap();
    }

    fn scratch(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("pclab-owner-{name}-{}", std::process::id()))
    }
}
