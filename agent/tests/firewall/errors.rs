//! What goes wrong is an error that says why, and changes nothing.

use std::error::Error;
use std::process::Command;
use std::time::Duration;

use nftables::batch::Batch;
use nftables::schema::{NfListObject, Rule, Table};
use nftables::types::NfFamily;
use portcullis_agent::firewall::{Firewall, FirewallError, Nft};

use crate::net::{Net, gate};

#[test]
fn a_batch_that_nft_refuses_is_an_error_with_its_words_and_leaves_nothing() {
    let net = Net::new();
    let mut batch = Batch::new();
    batch.add(NfListObject::Table(Table { family: NfFamily::INet, name: "portcullis".into(), handle: None }));
    let rule = Rule { family: NfFamily::INet, table: "portcullis".into(), chain: "nowhere".into(), ..Rule::default() };
    batch.add(NfListObject::Rule(rule));
    net.host.run(|| {
        let nft = Nft::find().unwrap();
        match nft.apply(&batch.to_nftables()) {
            Err(FirewallError::Refused { stderr, .. }) => assert!(stderr.contains("No such file or directory"), "{stderr}"),
            other => panic!("{other:?}"),
        }
        assert!(nft.list().unwrap().is_none());
    });
}

#[test]
fn no_nft_says_what_to_install() {
    let error = Nft::find_in(&["/nonexistent", "/proc"]).unwrap_err();
    assert_eq!(error.to_string(), "nft is not installed (looked in /nonexistent, /proc); install the package nftables");
    let gone = Nft::at("/nonexistent/nft").list().unwrap_err();
    assert_eq!(gone.to_string(), "cannot start /nonexistent/nft");
    assert!(gone.source().is_some());
}

#[test]
fn an_nft_that_hangs_is_killed() {
    let path = std::env::temp_dir().join(format!("pcfw-{}-nft", std::process::id()));
    // By another process: a file that this one has open for writing could be busy, when a test beside it starts a program.
    let script = format!("printf '#!/bin/sh\\nexec sleep 600\\n' > {0}; chmod +x {0}", path.display());
    assert!(Command::new("sh").args(["-ec", &script]).status().unwrap().success());
    let nft = Nft::at(&path).with_timeout(Duration::from_millis(200));
    // It returns only when the program has ended, which by itself takes ten minutes.
    let error = nft.list().unwrap_err();
    let _ = std::fs::remove_file(&path);
    assert!(matches!(error, FirewallError::TimedOut(_)), "{error:?}");
}

#[test]
fn a_gate_that_cannot_be_applied_changes_nothing() {
    let net = Net::new();
    // The hook of a chain of ours that stands cannot be changed: nft refuses the whole.
    net.host.sh("nft 'add table inet portcullis; add chain inet portcullis input { type filter hook prerouting priority 5; }'");
    let before = net.host.sh("nft list ruleset");
    let result = net.host.run(|| portcullis_agent::firewall::drop_gate(&Nft::find().unwrap(), &gate(), None));
    assert!(matches!(result, Err(FirewallError::Refused { .. })), "{result:?}");
    assert_eq!(net.host.sh("nft list ruleset"), before);
}
