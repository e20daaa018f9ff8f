use super::*;

fn message(server: [u8; 4]) -> Vec<u8> {
    let mut bytes = vec![0; 236];
    bytes[0] = 2;
    bytes.extend([99, 130, 83, 99, 53, 1, 5, 0, 54, 4]);
    bytes.extend(server);
    bytes.extend([51, 4, 0, 0, 14, 16, 255]);
    bytes
}

const DHCLIENT: &str = "default-duid \"\\000\\001\";\nlease {\n  interface \"eth0\";\n  fixed-address 10.0.0.9;\n  \
    option dhcp-server-identifier 10.0.0.1;\n  expire 1 2026/01/05 10:00:00;\n}\nlease {\n  interface \"eth1\";\n  \
    option dhcp-server-identifier 10.0.1.1;\n}\nlease {\n  interface \"eth0\";\n  option dhcp-server-identifier 10.0.0.2;\n}\n";

/// Files as each client writes them, with the servers that they name.
fn shapes() -> Vec<(&'static str, Vec<u8>, Vec<&'static str>)> {
    let one =
        |server: &str| format!("lease {{\n  interface \"eth0\";\n  option dhcp-server-identifier {server};\n}}\n").into_bytes();
    vec![
        ("var/lib/dhcp/dhclient.eth0.leases", DHCLIENT.into(), vec!["10.0.0.2", "10.0.1.1"]),
        ("var/lib/dhcp/dhclient.leases", one("10.1.0.1"), vec!["10.1.0.1"]),
        ("var/lib/dhclient/dhclient--eth0.lease", one("10.2.0.1"), vec!["10.2.0.1"]),
        ("var/lib/dhclient/dhclient-eth0.leases", one("10.2.0.2"), vec!["10.2.0.2"]),
        ("var/lib/dhclient/dhclient-5fb06bd0-0bb0-7ffb-45f1-d6edd65f3e03-eth0.lease", one("10.2.0.3"), vec!["10.2.0.3"]),
        ("var/lib/NetworkManager/dhclient-5fb06bd0-eth0.lease", one("10.3.0.1"), vec!["10.3.0.1"]),
        ("var/lib/NetworkManager/internal-5fb06bd0-eth0.lease", b"# This is private data. Do not parse.\nADDRESS=10.3.0.9\nSERVER_ADDRESS=10.3.0.2\n".into(), vec!["10.3.0.2"]),
        ("run/NetworkManager/devices/2", b"[device]\nmanaged=1\nnext-server=10.3.9.9\n\n[dhcp4]\ndhcp_server_identifier=10.3.0.3\nip_address=10.3.0.9\n".into(), vec!["10.3.0.3"]),
        ("run/systemd/netif/leases/2", b"# This is private data. Do not parse.\nADDRESS=10.4.0.9\nNETMASK=255.255.255.0\nROUTER=10.4.0.254\nSERVER_ADDRESS=10.4.0.1\nT1=10min\n".into(), vec!["10.4.0.1"]),
        ("var/lib/dhcpcd/eth0.lease", message([10, 5, 0, 1]), vec!["10.5.0.1"]),
        ("var/lib/dhcpcd5/dhcpcd-eth0.lease", message([10, 5, 0, 2]), vec!["10.5.0.2"]),
        ("var/lib/wicked/lease-eth0-dhcp-ipv4.xml", b"<lease>\n  <family>ipv4</family>\n  <ipv4:dhcp>\n    <server-id>10.6.0.1</server-id>\n  </ipv4:dhcp>\n</lease>\n".into(), vec!["10.6.0.1"]),
        ("run/net-eth0.conf", b"DEVICE='eth0'\nPROTO='dhcp'\nIPV4ADDR='10.7.0.9'\nROOTSERVER='10.7.0.1'\n".into(), vec!["10.7.0.1"]),
        ("run/udhcpc/eth0", b"interface='eth0'\nserverid='10.8.0.1'\nlease='600'\n".into(), vec!["10.8.0.1"]),
    ]
}

fn put(root: &Path, path: &str, bytes: &[u8]) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

fn addresses(list: &[&str]) -> Vec<IpAddr> {
    list.iter().map(|address| address.parse().unwrap()).collect()
}

#[test]
fn the_server_is_found_in_the_file_of_each_client() {
    for (path, bytes, expected) in shapes() {
        let root = tempfile::tempdir().unwrap();
        put(root.path(), path, &bytes);
        assert_eq!(servers(root.path()), addresses(&expected), "{path}");
    }
}

#[test]
fn a_lease_file_is_told_by_what_is_in_it() {
    let root = tempfile::tempdir().unwrap();
    put(root.path(), "var/lib/dhclient/of-a-later-version", DHCLIENT.as_bytes());
    put(root.path(), "var/lib/dhcpcd/of-a-network.name", &message([10, 5, 0, 1]));
    assert_eq!(servers(root.path()), addresses(&["10.0.0.2", "10.0.1.1", "10.5.0.1"]));
}

#[test]
fn of_two_files_about_one_interface_the_newer_one_counts() {
    let root = tempfile::tempdir().unwrap();
    let lease = |server: &str| format!("lease {{\n interface \"eth0\";\n option dhcp-server-identifier {server};\n}}\n");
    put(root.path(), "var/lib/dhcp/dhclient.eth0.leases", lease("10.0.0.1").as_bytes());
    put(root.path(), "var/lib/dhclient/dhclient--eth0.lease", lease("10.0.0.2").as_bytes());
    for (newer, server) in
        [("var/lib/dhcp/dhclient.eth0.leases", "10.0.0.1"), ("var/lib/dhclient/dhclient--eth0.lease", "10.0.0.2")]
    {
        let now = SystemTime::now() + std::time::Duration::from_secs(60);
        for path in ["var/lib/dhcp/dhclient.eth0.leases", "var/lib/dhclient/dhclient--eth0.lease"] {
            let age = std::time::Duration::from_secs(if path == newer { 0 } else { 3600 });
            File::options().append(true).open(root.path().join(path)).unwrap().set_modified(now - age).unwrap();
        }
        assert_eq!(servers(root.path()), addresses(&[server]), "{newer}");
    }
}

#[test]
fn what_is_no_lease_names_no_server_and_costs_little() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("var/lib/dhcp");
    let endless = [&[2u8][..], &[0; 235], &[99, 130, 83, 99], &[54, 200, 1]].concat();
    let all_pad = [&[2u8][..], &[0; 235], &[99, 130, 83, 99], &[0; 100_000]].concat();
    for (n, bytes) in [
        &b"option dhcp-server-identifier 0.0.0.0;\nSERVER_ADDRESS=127.0.0.1\nserverid=255.255.255.255\n"[..],
        b"option dhcp-server-identifier 10.0.0.1; exec evil\n",
        b"<server-id>10.0.0.1\n",
        b"lease {{{{{{\n}}}}\ninterface\nSERVER_ADDRESS\n=10.0.0.1\n",
        &[0xff; 4096],
        &endless,
        &all_pad,
        &[2],
    ]
    .into_iter()
    .enumerate()
    {
        put(root.path(), &format!("var/lib/dhcp/{n}"), bytes);
    }
    put(root.path(), "var/lib/dhcp/large", &[&b"SERVER_ADDRESS=10.0.0.1\n"[..], &vec![b'\n'; MOST_BYTES as usize]].concat());
    rustix::fs::mkfifoat(rustix::fs::CWD, directory.join("pipe"), rustix::fs::Mode::RUSR).unwrap();
    std::os::unix::fs::symlink("loop", directory.join("loop")).unwrap();
    std::os::unix::fs::symlink("/dev/zero", directory.join("zero")).unwrap();
    assert_eq!(servers(root.path()), addresses(&[]));
}

#[test]
fn thousands_of_files_are_bounded() {
    let root = tempfile::tempdir().unwrap();
    for n in 0..1000u32 {
        let lease = format!("SERVER_ADDRESS=10.9.{}.{}\n", n / 250, n % 250 + 1);
        put(root.path(), &format!("run/systemd/netif/leases/{n}"), lease.as_bytes());
    }
    assert_eq!(servers(root.path()).len(), MOST_SERVERS);
}
