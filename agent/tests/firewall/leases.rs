//! Real DHCP clients and the files that they leave: their server is found there.

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use portcullis_agent::host::leases;

use crate::net::{FRIEND, Net};

const SOON: Duration = Duration::from_secs(60);

/// Ends with its test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn serve(net: &Net, directory: &Path) -> Running {
    let at = |name: &str| directory.join(name).display().to_string();
    fs::write(at("served"), "").unwrap();
    let config = format!(
        "start 10.99.0.100\nend 10.99.0.110\ninterface eth0\nlease_file {}\npidfile {}\noption lease 600\noption subnet 255.255.255.0\n",
        at("served"),
        at("udhcpd.pid")
    );
    fs::write(at("udhcpd.conf"), config).unwrap();
    let start = || Command::new("udhcpd").args(["-f", &at("udhcpd.conf")]).stderr(Stdio::null()).spawn().unwrap();
    Running(net.outside.run(start))
}

fn is_found(root: &Path) -> bool {
    let expected: IpAddr = FRIEND[0].parse().unwrap();
    let until = Instant::now() + SOON;
    loop {
        let found = leases::servers(root);
        if found == [expected] {
            return true;
        }
        assert!(found.is_empty() && Instant::now() < until, "{found:?}");
        std::thread::yield_now();
    }
}

#[test]
fn the_server_of_a_real_dhclient_is_found_whatever_its_file_is_called() {
    for file in ["var/lib/dhclient/dhclient--eth0.lease", "var/lib/dhcp/dhclient.eth0.leases"] {
        let (net, root) = (Net::new(), tempfile::tempdir().unwrap());
        let _server = serve(&net, root.path());
        let path = root.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let start = || {
            let mut dhclient = Command::new("dhclient");
            dhclient.args(["-d", "-4", "-sf", "/bin/true", "-cf", "/dev/null", "-lf"]).arg(&path);
            dhclient.arg("-pf").arg(root.path().join("pid")).arg("eth0").stderr(Stdio::null()).spawn().unwrap()
        };
        let _client = Running(net.host.run(start));
        assert!(is_found(root.path()), "{file}");
    }
}

#[test]
fn the_server_of_a_real_udhcpc_is_found_where_its_script_keeps_what_it_is_told() {
    let (net, root) = (Net::new(), tempfile::tempdir().unwrap());
    let _server = serve(&net, root.path());
    let kept = root.path().join("run/udhcpc");
    fs::create_dir_all(&kept).unwrap();
    // Written by a shell: a program that is open for writing cannot be run.
    let script = root.path().join("script");
    net.host.sh(&format!(
        "printf '#!/bin/sh\\n[ \"$1\" = bound ] && env > {}/\"$interface\"\\n' > {script}; chmod 755 {script}",
        kept.display(),
        script = script.display()
    ));
    let start = || {
        let mut udhcpc = Command::new("udhcpc");
        udhcpc.args(["-f", "-i", "eth0", "-s"]).arg(&script).stderr(Stdio::null()).spawn().unwrap()
    };
    let _client = Running(net.host.run(start));
    assert!(is_found(root.path()));
}
