//! `portcullis up`: one folder, one broker, and no word of success before its time.

use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::ensure;
use portcullis_tests::place::{Folder, free_port, nats_server, program};
use portcullis_tests::process::Process;
use portcullis_tests::until::until;

#[tokio::test]
async fn a_second_broker_never_writes_the_streams_of_the_first() -> anyhow::Result<()> {
    let folder = Folder::new("up")?;
    let data = folder.path().join("data");
    let first = Process::start(&mut up(&data, free_port()?, free_port()?)?, &folder.path().join("first"))?;
    until("the first one is up", Duration::from_secs(30), || async { Ok(first.said().contains("is up").then_some(())) }).await?;
    let config = std::fs::read_to_string(data.join("nats-server.conf"))?;
    let second = up(&data, free_port()?, free_port()?)?.output()?;
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    ensure!(second.status.code() == Some(1) && said.contains("another `portcullis up`"), "{second:?}");
    ensure!(std::fs::read_to_string(data.join("nats-server.conf"))? == config, "its configuration was written over");
    Ok(())
}

#[tokio::test]
async fn it_says_that_it_is_up_only_when_it_is() -> anyhow::Result<()> {
    let folder = Folder::new("up")?;
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let output = up(&folder.path().join("data"), free_port()?, taken.local_addr()?.port())?.output()?;
    ensure!(output.status.code() == Some(1) && output.stdout.is_empty(), "{output:?}");
    ensure!(String::from_utf8_lossy(&output.stderr).contains("--http"), "{output:?}");
    Ok(())
}

fn up(data: &Path, port: u16, http: u16) -> anyhow::Result<Command> {
    let mut command = Command::new(program("portcullis")?);
    command
        .arg("up")
        .args(["--port", &port.to_string(), "--http", &format!("127.0.0.1:{http}")])
        .arg("--data")
        .arg(data)
        .arg("--nats-server")
        .arg(nats_server()?);
    Ok(command)
}
