//! The posture file on a real disk: crashes between the copies, bad copies, and directories that do not let it write.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::PermissionsExt;

use portcullis_agent::disk::posture_file::{CopyName, PostureFile};
use portcullis_agent_core::deadline::{Mark, Now};
use portcullis_agent_core::record::{Fault, Record, StoredRecord, Trace, VERSION};
use portcullis_schemas::HostId;
use portcullis_schemas::events::Posture;

#[test]
fn what_was_written_is_read_and_the_directory_is_the_owners() {
    let directory = tempfile::tempdir().unwrap();
    let file = PostureFile::new(directory.path().join("deep/state"));
    let _lock = file.claim().unwrap();
    assert_eq!(file.read(&me()), (StoredRecord::Never, vec![]));
    file.write(CopyName::A, &record(1)).unwrap();
    file.write(CopyName::B, &record(1)).unwrap();
    assert_eq!(file.read(&me()), (StoredRecord::Known(Box::new(record(1))), vec![]));
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&directory.path().join("deep/state")), mode(&file.path(CopyName::A))), (0o700, 0o600));
}

#[test]
fn a_crash_between_the_copies_keeps_the_later_word() {
    let (_directory, file) = with(record(1));
    file.write(CopyName::A, &record(2)).unwrap();
    assert_eq!(file.read(&me()).0.generation(&me()), 2);
}

#[test]
fn a_crash_in_the_middle_of_a_copy_changes_nothing() {
    let (_directory, file) = with(record(1));
    fs::write(file.beside("posture.a.new"), b"sha256 half of").unwrap();
    assert_eq!(file.read(&me()), (StoredRecord::Known(Box::new(record(1))), vec![]));
    file.write(CopyName::A, &record(2)).unwrap();
    assert!(!file.beside("posture.a.new").exists());
}

#[test]
fn one_bad_copy_is_said_and_two_isolate() {
    let (_directory, file) = with(record(1));
    fs::write(file.path(CopyName::A), b"\0\0\0\0").unwrap();
    let (standing, faults) = file.read(&me());
    assert_eq!(standing.generation(&me()), 1);
    assert!(matches!(&faults[..], [Fault::OneCopy { copy: 'a', .. }]), "{faults:?}");
    fs::remove_file(file.path(CopyName::B)).unwrap();
    fs::create_dir(file.path(CopyName::B)).unwrap();
    let (standing, faults) = file.read(&me());
    assert_eq!((standing.posture(), faults.len()), (Posture::Isolated, 1));
}

#[test]
fn where_nothing_can_be_written_the_error_is_told_and_what_is_there_stays() {
    let (_directory, file) = with(record(1));
    // Root writes through mode bits; a directory in the way of the temporary file stops root as well.
    fs::create_dir(file.beside("posture.a.new")).unwrap();
    assert!(file.write(CopyName::A, &record(2)).is_err());
    assert_eq!(file.read(&me()).0.generation(&me()), 1);
}

#[test]
fn a_second_agent_is_kept_out_until_the_first_is_gone() {
    let (_directory, file) = with(record(1));
    let lock = file.claim().unwrap();
    let error = file.claim().unwrap_err().to_string();
    assert!(error.contains("another portcullis-agent"), "{error}");
    drop(lock);
    file.claim().unwrap();
}

#[test]
fn a_directory_in_which_others_can_write_is_refused() {
    let (directory, file) = with(record(1));
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o770)).unwrap();
    let error = file.claim().unwrap_err().to_string();
    assert!(error.contains("chmod 700"), "{error}");
}

fn with(record: Record) -> (tempfile::TempDir, PostureFile) {
    let directory = tempfile::tempdir().unwrap();
    let file = PostureFile::new(directory.path());
    file.write(CopyName::A, &record).unwrap();
    file.write(CopyName::B, &record).unwrap();
    (directory, file)
}

fn record(generation: u64) -> Record {
    let now = Now { wall: "2026-01-01T00:00:00Z".parse().unwrap(), broker: None, boot_ms: 0, boot_id: "one".into() };
    Record {
        version: VERSION,
        serial: generation,
        host: me(),
        generation,
        posture: Posture::Isolated,
        opened: None,
        order: None,
        trace: Trace::default(),
        frozen: None,
        mark: Mark::start(&now),
    }
}

fn me() -> HostId {
    "h1".parse().unwrap()
}
