//! `portcullis lab`: what its agents are told.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Duration;

use anyhow::ensure;
use portcullis_tests::place::{Folder, program, unique};
use portcullis_tests::process::Process;
use portcullis_tests::until::until;

#[tokio::test]
async fn its_agents_get_the_prefix_and_the_credentials() -> anyhow::Result<()> {
    let folder = Folder::new("lab")?;
    let (agent, told) = (folder.path().join("agent"), folder.path().join("told"));
    std::fs::write(&agent, format!("#!/bin/sh\necho \"$@\" > {}\nexec sleep 60\n", told.display()))?;
    std::fs::set_permissions(&agent, std::fs::Permissions::from_mode(0o755))?;
    let mut command = Command::new(program("portcullis")?);
    command.args(["lab", "--hosts", "1", "--name", &format!("t{}", unique()), "--prefix", "site-2", "--creds", "/a/file"]);
    command.arg("--agent").arg(&agent).arg("--dir").arg(folder.path().join("state"));
    let mut lab = Process::start(&mut command, &folder.path().join("log"))?;
    let said = until("an agent is started", Duration::from_secs(20), || async {
        Ok(std::fs::read_to_string(&told).ok().filter(|said| said.ends_with('\n')))
    })
    .await?;
    ensure!(said.contains("--prefix site-2") && said.contains("--creds /a/file"), "{said}");
    ensure!(lab.stop().await?.success(), "{}", lab.said());
    Ok(())
}
