//! Hosts that others, or they themselves, cannot do without: an isolated server of names and leases serves on, and an isolated client keeps its lease.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use portcullis_dev::{AgentConfig, Netns};
use portcullis_schemas::events::Posture;
use portcullis_tests::place::program;
use portcullis_tests::process::Process;
use portcullis_tests::until::until;
use portcullis_tests::world::{World, said};

const RENEWALS: usize = 12;

#[tokio::test]
async fn an_isolated_server_of_names_and_leases_serves_on() -> anyhow::Result<()> {
    let world = World::start(2, None).await?;
    let (server, client) = (world.lab().host(1), world.lab().host(2));
    let mut dnsmasq = server.netns.command("dnsmasq");
    dnsmasq.args([
        "--keep-in-foreground",
        "--conf-file=/dev/null",
        "--no-resolv",
        "--no-hosts",
        "--no-ping",
        "--user=root",
        "--pid-file=",
    ]);
    dnsmasq.args(["--interface=eth0", "--except-interface=lo", "--bind-interfaces", "--dhcp-range=10.213.0.100,10.213.0.120"]);
    dnsmasq.args(["--dhcp-authoritative", "--address=/served.test/192.0.2.7"]);
    dnsmasq.arg(format!("--dhcp-leasefile={}", world.log("leases").display()));
    let _dnsmasq = Process::start(&mut dnsmasq, &world.log("dnsmasq.log"))?;
    until("the server serves", Duration::from_secs(20), || async { served(&client.netns, server.ipv4, &world) }).await?;
    said(&world.verb(&["isolate", "h1"])?, 0)?;
    let (answers, lease) = (answers(&client.netns, server.ipv4)?, leased(&client.netns, &world)?);
    ensure!(answers && lease, "isolated: answers {answers}, leases {lease}");
    let rules = world.rules(1)?;
    ensure!(rules.contains("67") && world.enforced(1)? == Posture::Isolated);
    // The same server cannot ask anybody else for names.
    ensure!(server.netns.probe_udp((portcullis_dev::OUTSIDE_V4, 53), Duration::from_millis(300)).is_err());
    said(&world.verb(&["release", "h1"])?, 0)?;
    Ok(())
}

#[tokio::test]
async fn an_isolated_client_renews_its_lease_a_dozen_times_and_stays_releasable() -> anyhow::Result<()> {
    let mut world = World::start(0, None).await?;
    let leases = world.log("leases");
    std::fs::create_dir(&leases)?;
    // The agent sees the client's lease file where Debian's client keeps it.
    let script = world.log("agent.sh");
    let inner = "mkdir -p /var/lib/dhcp; mount --bind \"$0\" /var/lib/dhcp; exec \"$@\"";
    let agent = program("portcullis-agent")?;
    let text = format!("#!/bin/sh\nexec unshare --mount sh -c '{inner}' '{}' '{}' \"$@\"\n", leases.display(), agent.display());
    write_program(&script, &text)?;
    world.host_with(2, AgentConfig::new(&script)).await?;
    let (client, server) = (world.lab().host(1), world.lab().host(2));

    let config = world.log("udhcpd.conf");
    let files = world.log("udhcpd.leases");
    std::fs::write(&files, "")?;
    std::fs::write(
        &config,
        format!(
            "start 10.213.0.100\nend 10.213.0.100\ninterface eth0\nlease_file {}\npidfile {}\nmin_lease 2\noption lease 5\noption subnet 255.255.255.0\n",
            files.display(),
            world.log("udhcpd.pid").display()
        ),
    )?;
    let mut udhcpd = server.netns.command("udhcpd");
    let _udhcpd = Process::start(udhcpd.arg("-f").arg(&config), &world.log("udhcpd.log"))?;

    let heard = world.log("heard");
    let hook = world.log("hook.sh");
    let text = "#!/bin/sh\ncase $reason in BOUND|RENEW|REBIND|REBOOT) ip addr replace $new_ip_address/24 dev eth0;; \
                EXPIRE|FAIL) ip addr del $old_ip_address/24 dev eth0;; esac\necho $reason >> HEARD\n";
    write_program(&hook, &text.replace("HEARD", &heard.display().to_string()))?;
    let timing = world.log("dhclient.conf");
    std::fs::write(&timing, "initial-interval 1;\nbackoff-cutoff 1;\n")?;
    let mut dhclient = client.netns.command("dhclient");
    dhclient.args(["-d", "-4", "-lf"]).arg(leases.join("dhclient.leases")).arg("-pf").arg(world.log("dhclient.pid"));
    let _dhclient =
        Process::start(dhclient.arg("-sf").arg(&hook).arg("-cf").arg(&timing).arg("eth0"), &world.log("dhclient.log"))?;
    let told = |what: &str| std::fs::read_to_string(&heard).unwrap_or_default().lines().filter(|line| *line == what).count();
    until("a lease", Duration::from_secs(30), || async { Ok((told("BOUND") + told("RENEW") > 0).then_some(())) }).await?;

    said(&world.verb(&["isolate", "h1"])?, 0)?;
    let before = told("RENEW");
    until("a dozen renewals", Duration::from_secs(120), || async { Ok((told("RENEW") >= before + RENEWALS).then_some(())) })
        .await?;
    // A server that does not answer where it was is asked by broadcast.
    let deaf = "nft 'add table inet deaf; add chain inet deaf i { type filter hook input priority 0; }; \
                add rule inet deaf i ip daddr 10.213.0.12 udp dport 67 drop'";
    ensure!(server.netns.command("sh").args(["-c", deaf]).status()?.success());
    // One may have been on its way.
    let before = told("RENEW") + told("REBIND") + 1;
    let by_broadcast = || async { Ok((told("RENEW") + told("REBIND") > before).then_some(())) };
    until("a renewal by broadcast", Duration::from_secs(60), by_broadcast).await?;
    ensure!(told("EXPIRE") == 0 && world.enforced(1)? == Posture::Isolated, "{:?}", std::fs::read_to_string(&heard));
    said(&world.verb(&["release", "h1"])?, 0)?;
    ensure!(world.enforced(1)? == Posture::Open);
    Ok(())
}

fn served(client: &Netns, server: std::net::Ipv4Addr, world: &World) -> anyhow::Result<Option<()>> {
    Ok((answers(client, server)? && leased(client, world)?).then_some(()))
}

/// Whether a name is answered, over UDP.
fn answers(client: &Netns, server: std::net::Ipv4Addr) -> anyhow::Result<bool> {
    let ask = format!(
        "import socket\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\ns.settimeout(2)\n\
         s.sendto(bytes.fromhex('12340100000100000000000006736572766564047465737400') + bytes([0, 1, 0, 1]), ('{server}', 53))\n\
         print(bytes([192, 0, 2, 7]) in s.recv(512))"
    );
    let output = client.command("python3").args(["-c", &ask]).output()?;
    Ok(output.stdout.starts_with(b"True"))
}

/// Whether a client without an address gets one offered and confirmed.
fn leased(client: &Netns, world: &World) -> anyhow::Result<bool> {
    let hook = world.log("nothing.sh");
    write_program(&hook, "#!/bin/sh\n")?;
    let mut udhcpc = client.command("udhcpc");
    udhcpc.args(["-i", "eth0", "-n", "-q", "-f", "-t", "3", "-T", "1", "-s"]).arg(&hook);
    Ok(udhcpc.output().context("udhcpc")?.status.success())
}

fn write_program(path: &Path, text: &str) -> anyhow::Result<()> {
    // Not written by this process, which others of its threads may be forking at this moment: a program that is open for writing cannot be run.
    let status =
        Command::new("sh").args(["-c", "printf '%s' \"$1\" > \"$0\" && chmod 755 \"$0\""]).arg(path).arg(text).status()?;
    ensure!(status.success(), "cannot write {}", path.display());
    Ok(())
}
