//! What the reader makes of two copies.

use super::*;

#[test]
fn two_copies_are_read_fail_safe() {
    let (old, new) = (record("h1", 3, 7), record("h1", 4, 8));
    let (none, bad, unreadable) = (Ok(None), Ok(Some(b"sha256 0\n{}".to_vec())), Err("input/output error".to_owned()));
    let cut = Ok(Some(file(&new).ok().flatten().map(|bytes| bytes[..bytes.len() / 2].to_vec()).unwrap_or_default()));
    for (what, a, b, standing, faults) in [
        ("absent is open", &none, &none, "never", 0),
        ("crash after the first copy", &file(&new), &none, "4/8", 0),
        ("crash between the copies", &file(&new), &file(&old), "4/8", 0),
        ("the other way round", &file(&old), &file(&new), "4/8", 0),
        ("first bad", &bad, &file(&old), "3/7", 1),
        ("second cut short", &file(&old), &cut, "3/7", 1),
        ("second unreadable", &file(&old), &unreadable, "3/7", 1),
        ("both bad", &bad, &cut, "lost", 1),
        ("one bad, one absent: there was an order", &none, &bad, "lost", 1),
    ] {
        let (found, said) = read(a, b, &id("h1"));
        let text = match &found {
            StoredRecord::Never => "never".to_owned(),
            StoredRecord::Lost => "lost".to_owned(),
            StoredRecord::Known(record) => format!("{}/{}", record.generation, record.serial),
        };
        assert_eq!((text.as_str(), said.len()), (standing, faults), "{what}: {said:?}");
    }
}

#[test]
fn of_the_same_generation_the_later_writing_counts() {
    let (found, _) = read(&file(&record("h1", 3, 9)), &file(&record("h1", 3, 10)), &id("h1"));
    assert_eq!(found.record().map(|record| record.serial), Some(10));
}

#[test]
fn a_record_of_another_host_is_said_and_kept() {
    let (found, faults) = read(&file(&record("clone", 3, 9)), &Ok(None), &id("h1"));
    assert_eq!((found.posture(), found.generation(&id("h1"))), (Posture::Isolated, 0));
    assert!(matches!(&faults[..], [Fault::Foreign { .. }]), "{faults:?}");
    let (found, _) = read(&file(&record("clone", 30, 9)), &file(&record("h1", 1, 10)), &id("h1"));
    assert_eq!(found.generation(&id("h1")), 1, "my own record wins over a higher one of another host");
}

#[test]
fn a_newer_version_by_one_is_read_and_no_further() {
    let of = |version| decode(&encode(&Record { version, ..record("h1", 1, 1) }).unwrap()).is_ok();
    assert_eq!((of(VERSION), of(VERSION + 1), of(VERSION + 2)), (true, true, false));
}

#[test]
fn every_flipped_byte_is_seen() {
    let good = encode(&record("h1", 1, 1)).unwrap();
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1;
        assert!(decode(&bad).is_err(), "byte {at}");
    }
}

fn record(host: &str, generation: u64, serial: u64) -> Record {
    let now = Now { wall: Timestamp::from_timestamp(0, 0).unwrap(), broker: None, boot_ms: 0, boot_id: "one".into() };
    Record {
        version: VERSION,
        serial,
        host: id(host),
        generation,
        posture: Posture::Isolated,
        opened: None,
        order: None,
        trace: Trace::default(),
        frozen: None,
        mark: Mark::start(&now),
    }
}

fn file(record: &Record) -> Copy {
    Ok(Some(encode(record).unwrap()))
}

fn id(text: &str) -> HostId {
    text.parse().unwrap()
}
