//! Somebody with root on an isolated host changes what isolates it: it is put right at once, and said with who it was.

use std::collections::BTreeSet;
use std::process::Child;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use portcullis_agent_core::record;
use portcullis_dev::OUTSIDE_V4;
use portcullis_schemas::Stream;
use portcullis_schemas::events::{Notice, NoticeKind, Posture, State, StateCause, Tamper};
use portcullis_tests::bus::{by_id, ransomware};
use portcullis_tests::onlooker::Onlooker;
use portcullis_tests::probe::{Kind, Way};
use portcullis_tests::until::until;
use portcullis_tests::world::{POLICY, World, said};

/// What is done in one transaction, and a word of what must be said of it.
const DEEDS: &[(&str, &str)] = &[
    ("nft add table inet portcullis '{ flags dormant; }'", "the table inet portcullis was made dormant"),
    ("nft add table netdev portcullis '{ flags dormant; }'", "the table netdev portcullis was made dormant"),
    ("nft flush ruleset", "the table inet portcullis was deleted"),
    ("nft delete table inet portcullis", "the table inet portcullis was deleted"),
    ("nft delete table netdev portcullis", "the table netdev portcullis was deleted"),
    (
        "nft 'flush chain inet portcullis output; delete chain inet portcullis output'",
        "chain output of inet portcullis was deleted",
    ),
    ("nft 'flush chain netdev portcullis '$OUT'; delete chain netdev portcullis '$OUT", "eth0 of netdev portcullis was deleted"),
    ("nft flush chain inet portcullis output", "a rule of chain output of inet portcullis was deleted"),
    ("nft flush table netdev portcullis", "a rule of chain egress of netdev portcullis was deleted"),
    (
        "nft delete rule inet portcullis sending handle $(nft -a list chain inet portcullis sending | sed -n 's/.*reject.*# handle //p' | head -n 1)",
        "a rule of chain sending of inet portcullis was deleted",
    ),
    ("nft insert rule inet portcullis input accept", "a rule of chain input of inet portcullis was added"),
    ("nft insert rule inet portcullis arriving accept", "a rule of chain arriving of inet portcullis was added"),
    ("nft insert rule netdev portcullis egress accept", "a rule of chain egress of netdev portcullis was added"),
    ("nft flush set inet portcullis control4", "an element of set control4 of inet portcullis was deleted"),
    (
        "nft add element inet portcullis control4 '{ 203.0.113.9 . 443 }'",
        "an element of set control4 of inet portcullis was added",
    ),
    ("nft add chain inet portcullis output '{ policy accept; }'", "chain output of inet portcullis was added or changed"),
    ("nft add chain inet portcullis mine", "chain mine of inet portcullis was added"),
    // What the kernel does not change back: a chain of ours that is no base chain any more, or on another hook or device; a set of other keys.
    (
        "nft 'flush chain inet portcullis output; delete chain inet portcullis output; add chain inet portcullis output'",
        "chain output of inet portcullis was deleted",
    ),
    (
        "nft 'flush chain inet portcullis output; delete chain inet portcullis output; \
              add chain inet portcullis output { type filter hook output priority 300; policy drop; }'",
        "chain output of inet portcullis was deleted",
    ),
    (
        "nft 'flush chain netdev portcullis '$OUT'; delete chain netdev portcullis '$OUT'; \
              add chain netdev portcullis '$OUT' { type filter hook egress device lo priority 0; policy drop; }'",
        "eth0 of netdev portcullis was deleted",
    ),
    (
        "nft 'flush table inet portcullis; delete set inet portcullis control4; \
              add set inet portcullis control4 { type ipv6_addr . inet_service; }'",
        "set control4 of inet portcullis was deleted",
    ),
    // What a distribution's nftables.service loads.
    (
        "printf 'flush ruleset\ntable inet filter {\n chain input { type filter hook input priority filter; }\n}\n' | nft -f -",
        "the table inet portcullis was deleted",
    ),
];

/// What common firewalls do when they are loaded again, and a table that accepts before everybody else: ours are not touched by it.
const HARMLESS: &[(&str, &str)] = &[
    (
        "accept first",
        "nft 'add table inet first; add chain inet first i { type filter hook input priority -500; policy accept; }; add rule inet first i accept; \
              add chain inet first o { type filter hook output priority -500; policy accept; }; add rule inet first o accept; \
              add table netdev first; add chain netdev first e { type filter hook egress device eth0 priority -500; policy accept; }; \
              add rule netdev first e accept'",
    ),
    (
        "docker",
        "iptables-nft -t nat -N DOCKER; iptables-nft -t nat -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER; \
         iptables-nft -t nat -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE; iptables-nft -P FORWARD DROP; \
         iptables-nft -N DOCKER-USER; iptables-nft -A FORWARD -j DOCKER-USER; iptables-nft -A DOCKER-USER -j RETURN; \
         iptables-nft -A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT; iptables-nft -P FORWARD ACCEPT",
    ),
    (
        "ufw",
        "iptables-nft -F; iptables-nft -X; iptables-nft -t nat -F; printf '*filter\n:INPUT ACCEPT [0:0]\n:ufw-user-input - [0:0]\n\
         -A INPUT -j ufw-user-input\n-A ufw-user-input -p tcp --dport 22 -j ACCEPT\nCOMMIT\n' | iptables-nft-restore; \
         printf '*filter\n:INPUT ACCEPT [0:0]\nCOMMIT\n' | ip6tables-nft-restore",
    ),
    (
        "firewalld",
        "for round in 1 2; do nft 'add table inet firewalld; delete table inet firewalld; add table inet firewalld; \
         add chain inet firewalld filter_INPUT { type filter hook input priority 10; policy accept; }; \
         add chain inet firewalld filter_OUTPUT { type filter hook output priority 10; policy accept; }; \
         add rule inet firewalld filter_INPUT ct state { established, related } accept; add rule inet firewalld filter_OUTPUT accept'; done",
    ),
];

/// Puts the name of the chain that stands on the way out of eth0 into $OUT.
const OUT: &str = r"OUT=$(nft list table netdev portcullis | sed -n 's/.*chain \(out-[0-9]*-eth0\) .*/\1/p');";

#[tokio::test]
async fn what_somebody_changes_is_put_right_and_said() -> anyhow::Result<()> {
    let world = unlocked().await?;
    said(&world.verb(&["isolate", "h1"])?, 0)?;
    let before = parts(&world.rules(1)?);
    let agent = world.lab().agent(1).pid().context("the agent runs")?;
    for (deed, word) in DEEDS {
        let told: BTreeSet<String> = tampers(&world).await?.into_iter().map(|(id, _)| id).collect();
        let onlooker = Onlooker::new(&world.lab().host(1).netns)?;
        let answered = std::thread::spawn(move || onlooker.answered(agent));
        ran(&world.in_host(1, &format!("{OUT} {deed}"))?)?;
        let answered = answered.join().ok().context("the onlooker")??;
        until(&format!("restored after {deed}"), Duration::from_secs(10), || async {
            Ok((parts(&world.rules(1)?) == before).then_some(()))
        })
        .await?;
        let tamper = until(&format!("a word about {deed}"), Duration::from_secs(30), || async {
            Ok(tampers(&world).await?.into_iter().find(|(id, _)| !told.contains(id)).map(|(_, tamper)| tamper))
        })
        .await?;
        let by_itself = tamper.restored_in_ms.context("the agent's own time")?;
        println!(
            "{:6.1} ms by an onlooker, {by_itself} ms by the agent: {deed}: {:?} by {:?}",
            ms(answered),
            tamper.what,
            tamper.by
        );
        ensure!(tamper.restored && tamper.times == 1, "{deed}: {tamper:?}");
        ensure!(tamper.what.iter().any(|what| what.contains(word)), "{deed}: {tamper:?}");
        ensure!(tamper.by.len() == 1 && tamper.by[0].program == "nft" && tamper.by[0].pid != agent, "{deed}: {tamper:?}");
        // 50 ms on a quiet machine; tests beside this one may hold the agent up for longer.
        ensure!(answered < Duration::from_secs(1), "{deed}: {answered:?}");
    }
    let notices = world.bus.all::<Notice>(Stream::Notices, &world.bus.prefix.of(Stream::Notices, "h1")).await?;
    ensure!(notices.iter().any(|found| found.event.data.kind == NoticeKind::Tamper), "{notices:?}");
    ensure!(world.enforced(1)? == Posture::Isolated);
    said(&world.verb(&["release", "h1"])?, 0)?;
    ensure!(world.enforced(1)? == Posture::Open);
    Ok(())
}

#[tokio::test]
async fn what_other_firewalls_do_changes_nothing_and_is_nobodys_tampering() -> anyhow::Result<()> {
    for world in [World::start(1, Some(POLICY)).await?, unlocked().await?] {
        said(&world.verb(&["isolate", "h1"])?, 0)?;
        let before = world.rules(1)?;
        let way = Way::new("tcp", &world.lab().host(1).netns, OUTSIDE_V4, Kind::Tcp);
        for (name, deed) in HARMLESS {
            ran(&world.in_host(1, &format!("set -e; {deed}"))?).with_context(|| (*name).to_owned())?;
            ensure!(world.rules(1)? == before && !way.open().await, "{name}");
        }
        ensure!(tampers(&world).await?.is_empty(), "{:?}", tampers(&world).await?);
    }
    Ok(())
}

#[tokio::test]
async fn what_is_done_in_the_first_moments_of_an_isolation_is_put_right_and_said() -> anyhow::Result<()> {
    let world = unlocked().await?;
    for (round, deed) in ["nft flush ruleset", "nft flush chain inet portcullis arriving"].into_iter().enumerate() {
        let ready =
            "i=0; until nft list chain inet portcullis input > /dev/null 2>&1; do i=$((i+1)); [ $i -lt 4000 ] || exit 1; done";
        let mut command = world.lab().host(1).netns.command("sh");
        let mut waits = command.args(["-c", &format!("{ready}; {deed}")]).spawn()?;
        world.verb(&["isolate", "h1"])?;
        ensure!(waits.wait()?.success(), "{deed}");
        let generation = 1 + 2 * u64::try_from(round)?;
        until("it is said", Duration::from_secs(10), || async {
            let told = states(&world).await?.into_iter().filter(|state| state.generation == generation);
            Ok(told.filter_map(|state| state.tamper).any(|tamper| tamper.restored).then_some(()))
        })
        .await?;
        let last = states(&world).await?.pop().context("a state")?;
        ensure!(last.evidence.readback_ok && last.error.is_none(), "{deed}: {last:?}");
        let way = Way::new("tcp", &world.lab().host(1).netns, OUTSIDE_V4, Kind::Tcp);
        ensure!(world.enforced(1)? == Posture::Isolated && !way.open().await, "{deed}");
        said(&world.verb(&["release", "h1"])?, 0)?;
    }
    Ok(())
}

#[tokio::test]
async fn what_is_done_while_no_agent_lives_is_put_right_and_said_by_the_next() -> anyhow::Result<()> {
    done_while_none_lives(unlocked().await?, &[("PORTCULLIS_LOCK", "off")]).await
}

#[tokio::test]
async fn what_is_done_to_tables_whose_owner_has_gone_is_put_right_and_said_by_the_next() -> anyhow::Result<()> {
    done_while_none_lives(World::start(1, Some(POLICY)).await?, &[]).await
}

async fn done_while_none_lives(world: World, settings: &[(&str, &str)]) -> anyhow::Result<()> {
    let agent = world.lab().agent(1);
    said(&world.verb(&["isolate", "h1"])?, 0)?;
    let rules = rules_alone(&world.rules(1)?);
    let deeds = [
        ("", ""),
        ("nft flush ruleset", "table portcullis is missing"),
        ("nft delete table netdev portcullis", "table netdev portcullis is missing"),
        ("nft insert rule inet portcullis sending accept", "chain sending also has"),
        ("nft add table netdev portcullis '{ flags dormant; }'", "is dormant"),
        ("nft add chain inet portcullis more", "chain more is not ours"),
        // Nobody's tampering.
        ("ip link add later type veth peer name other", ""),
    ];
    // The kernel keeps a table awake whose owner has gone (EOPNOTSUPP).
    let was_locked = settings.is_empty();
    let mut told = BTreeSet::new();
    for (deed, word) in deeds.into_iter().filter(|(_, word)| !(was_locked && word.contains("dormant"))) {
        until("the agent knows its rules whole", Duration::from_secs(20), || async {
            let copies = ["posture.a", "posture.b"].map(|name| std::fs::read(world.lab().host(1).state_dir.join(name)));
            let whole =
                |bytes: &Vec<u8>| record::decode(bytes).is_ok_and(|record| record.frozen.is_some_and(|f| f.whole_by.is_some()));
            Ok(copies.iter().flatten().any(whole).then_some(()))
        })
        .await?;
        agent.kill9()?;
        let before = states(&world).await?.len();
        ran(&world.in_host(1, &format!("set -e; {deed}"))?)?;
        agent.start(settings)?;
        // What was not acknowledged before is told again, with its id.
        let found = until(&format!("a word after {deed:?}"), Duration::from_secs(20), || async {
            let new: Vec<_> = tampers(&world).await?.into_iter().filter(|(id, _)| !told.contains(id)).collect();
            let is_told = match word {
                "" => states(&world).await?.iter().skip(before).any(|state| state.cause == StateCause::Check),
                _ => !new.is_empty(),
            };
            Ok(is_told.then_some(new))
        })
        .await?;
        let fits = |(_, tamper): &(String, Tamper)| tamper.restored && tamper.what.iter().any(|what| what.contains(word));
        ensure!(found.len() == usize::from(!word.is_empty()) && found.iter().all(fits), "{deed}: {found:?}");
        ensure!(deed.starts_with("ip ") || parts(&rules_alone(&world.rules(1)?)) == parts(&rules), "{deed}");
        told.extend(found.into_iter().map(|(id, _)| id));
    }
    said(&world.verb(&["release", "h1"])?, 0)?;
    let all: BTreeSet<_> = tampers(&world).await?.into_iter().map(|(id, _)| id).collect();
    ensure!(world.enforced(1)? == Posture::Open && all == told, "{all:?}");
    Ok(())
}

#[tokio::test]
async fn a_table_that_stands_on_an_open_host_is_taken_away_and_said() -> anyhow::Result<()> {
    let world = World::start(1, Some(POLICY)).await?;
    ran(&world.in_host(1, "nft add table inet portcullis; nft add chain inet portcullis theirs")?)?;
    said(&world.verb(&["isolate", "h1"])?, 0)?;
    let tamper = until("it is said", Duration::from_secs(10), || async { Ok(tampers(&world).await?.pop()) }).await?.1;
    ensure!(tamper.what == ["table portcullis is not ours"] && tamper.restored, "{tamper:?}");
    let state = states(&world).await?.pop().context("a state")?;
    ensure!(state.evidence.table_locked && state.evidence.readback_ok && !world.rules(1)?.contains("theirs"), "{state:?}");
    said(&world.verb(&["release", "h1"])?, 0)?;
    Ok(())
}

#[tokio::test]
async fn a_locked_table_is_not_changed_at_all_and_outlives_the_agent() -> anyhow::Result<()> {
    let world = World::start(1, Some(POLICY)).await?;
    said(&world.verb(&["isolate", "h1"])?, 0)?;
    let state = states(&world).await?.pop().context("a state")?;
    ensure!(state.evidence.table_locked, "this kernel has no lock: {state:?}");
    let before = world.rules(1)?;
    for (deed, _) in DEEDS {
        world.in_host(1, &format!("{OUT} {deed}"))?;
        ensure!(world.rules(1)? == before, "{deed}");
    }
    ensure!(tampers(&world).await?.is_empty());
    world.lab().agent(1).kill9()?;
    ensure!(rules_alone(&world.rules(1)?) == rules_alone(&before), "changed by the death of its owner");
    // Nobody's now. The agent that comes takes it over, says what it found, and has it to itself again.
    ran(&world.in_host(1, "nft insert rule inet portcullis input accept")?)?;
    world.lab().agent(1).start(&[])?;
    until("the next agent has put it right", Duration::from_secs(10), || async {
        Ok((rules_alone(&world.rules(1)?) == rules_alone(&before)).then_some(()))
    })
    .await?;
    until("and it is locked again", Duration::from_secs(10), || async {
        Ok((!world.in_host(1, "nft insert rule inet portcullis input accept")?.status.success()).then_some(()))
    })
    .await?;
    said(&world.verb(&["release", "h1"])?, 0)?;
    ensure!(world.enforced(1)? == Posture::Open);
    Ok(())
}

/// Chains and sets, in no order: nft lists them as they were made.
fn parts(rules: &str) -> BTreeSet<String> {
    let of_both = rules.split("table ").flat_map(|table| {
        let (family, rest) = table.split_once('{').unwrap_or_default();
        rest.trim_end().trim_end_matches('}').split("\n\n").map(move |part| format!("{family} {}", part.trim()))
    });
    of_both.collect()
}

/// Without what nft says of a table's owner.
fn rules_alone(rules: &str) -> String {
    rules
        .lines()
        .filter(|line| !line.starts_with("table ") && !line.trim_start().starts_with("flags owner") && line.trim() != "flags")
        .collect()
}

/// A host whose kernel does not lock the tables.
pub async fn unlocked() -> anyhow::Result<World> {
    let world = World::start(1, Some(POLICY)).await?;
    world.lab().agent(1).kill9()?;
    world.lab().agent(1).start(&[("PORTCULLIS_LOCK", "off")])?;
    Ok(world)
}

#[tokio::test]
async fn a_storm_is_said_in_bounds_and_starves_neither_an_order_nor_a_release() -> anyhow::Result<()> {
    let world = unlocked().await?;
    said(&world.verb(&["isolate", "h1"])?, 0)?;
    // Bounded: they end by themselves, however this test ends. One flushes as quickly as one process can, one forks, one moves devices.
    let storms = [
        "i=0; while [ $i -lt 60000 ]; do echo flush ruleset; i=$((i+1)); done | timeout 120 nft -i",
        "i=0; while [ $i -lt 3000 ]; do nft delete table inet portcullis 2> /dev/null || :; i=$((i+1)); done",
        "i=0; while [ $i -lt 1000 ]; do ip link add st0 type veth peer name st1; ip link del st0; i=$((i+1)); done",
    ];
    let storms: Vec<_> = storms
        .iter()
        .map(|storm| world.lab().host(1).netns.command("sh").args(["-c", storm]).spawn())
        .collect::<Result<_, _>>()?;
    let mut storms = Storms(storms);
    let began = Instant::now();
    // A busy machine slows the storm and the agent alike.
    until("the storm rages", Duration::from_secs(100), || async {
        let times: u64 = tampers(&world).await?.iter().map(|(_, tamper)| tamper.times).sum();
        Ok((times > 20).then_some(()))
    })
    .await?;
    let start = Instant::now();
    world.bus.detect("siem", ransomware(by_id("h1"))).await?;
    world.bus.state("h1", 2, Posture::Isolated).await?;
    let ordered = start.elapsed();
    ensure!(storms.rage()?, "the storm was over too early to show anything");
    said(&world.verb(&["release", "h1", "--wait", "60s"])?, 0)?;
    println!("in a storm: an order in {ordered:?}, a release {:?} later", start.elapsed() - ordered);
    ensure!(world.enforced(1)? == Posture::Open);
    let told = tampers(&world).await?;
    println!("{} events told of {} changes", told.len(), told.iter().map(|(_, tamper)| tamper.times).sum::<u64>());
    // 16 one by one, then one in ten seconds; and what waits is told before each of the two orders.
    let most = 16 + began.elapsed().as_secs() / 10 + 2;
    ensure!(told.len() as u64 <= most, "{} events and not {most}", told.len());
    Ok(())
}

/// Processes that go when the test ends.
struct Storms(Vec<Child>);

impl Storms {
    /// Whether any of them goes on.
    fn rage(&mut self) -> anyhow::Result<bool> {
        let ended = self.0.iter_mut().map(Child::try_wait).collect::<Result<Vec<_>, _>>()?;
        Ok(ended.iter().any(Option::is_none))
    }
}

impl Drop for Storms {
    fn drop(&mut self) {
        for storm in &mut self.0 {
            let _ = storm.kill();
            let _ = storm.wait();
        }
    }
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

pub fn ran(output: &std::process::Output) -> anyhow::Result<()> {
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

pub async fn states(world: &World) -> anyhow::Result<Vec<State>> {
    Ok(world.bus.states("h1").await?.into_iter().map(|found| found.event.data).collect())
}

/// What was said about tampering, with the events' ids.
pub async fn tampers(world: &World) -> anyhow::Result<Vec<(String, Tamper)>> {
    let states = world.bus.states("h1").await?.into_iter();
    let of_tamper = states.filter(|found| found.event.data.cause == StateCause::Tamper);
    Ok(of_tamper.filter_map(|found| Some((found.event.id, found.event.data.tamper?))).collect())
}
