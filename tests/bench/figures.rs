//! What was measured, as a table and as JSON.

use serde::Serialize;

use crate::idle::Resident;
use crate::series::Summary;

/// Of one way, or until one step of it, in each direction.
#[derive(Debug, Serialize)]
pub struct Times {
    pub name: &'static str,
    pub isolate: Summary,
    pub release: Summary,
}

#[derive(Debug, Serialize)]
pub struct Lateness {
    pub name: &'static str,
    pub release_due: Summary,
    pub order: Summary,
}

#[derive(Debug, Serialize)]
pub struct Report {
    pub rounds: usize,
    /// From the publish until a program on the host is refused, or let out again; the floor first.
    pub ways: Vec<Times>,
    /// From an order that only has to be heard until then; the floor first.
    pub orders: Vec<Times>,
    /// From the publish until each step.
    pub stages: Vec<Times>,
    pub idle_s: f64,
    pub idle: Vec<Resident>,
    pub deadlines: Vec<Lateness>,
}

impl Report {
    pub fn print(&self) {
        println!("publish → packets refused or let out, {} rounds, ms (× the floor)", self.rounds);
        println!("{:34} {:^35} {:^35}", "", "isolate", "release");
        println!("{:34} {:>17} {:>17} {:>17} {:>17}", "", "p50", "p99", "p50", "p99");
        compare(&self.ways);
        println!("\norder on core NATS → packets refused or let out, ms (× the floor)");
        compare(&self.orders);
        println!("\nstages, since the publish, ms; a stream's time stamp is taken before its fsync");
        for stage in &self.stages {
            let Times { name, isolate, release } = stage;
            println!("{name:34} {:>17.2} {:>17.2} {:>17.2} {:>17.2}", isolate.p50, isolate.p99, release.p50, release.p99);
        }
        println!("\nidle for {:.0} s, the host isolated", self.idle_s);
        for Resident { name, rss_mib, anonymous_mib, cpu_ms } in &self.idle {
            println!("{name:34} {rss_mib:.1} MiB resident, {anonymous_mib:.1} MiB of it anonymous, {cpu_ms:.1} ms of CPU");
        }
        println!("\ndeadlines: how late, as stored, ms\n{:34} {:>8} {:>8} {:>8} {:>8}", "", "min", "p50", "p99", "max");
        for Lateness { name, release_due, order } in &self.deadlines {
            for (what, late) in [("release-due", release_due), ("order to open", order)] {
                let name = format!("{} {name}: {what}", late.n);
                println!("{name:34} {:>8.2} {:>8.2} {:>8.2} {:>8.2}", late.min, late.p50, late.p99, late.max);
            }
        }
    }
}

/// With the first as the floor.
fn compare(all: &[Times]) {
    let floor = all.first();
    let cell = |value: f64, floor: Option<f64>| format!("{value:.2} ({:.2}×)", value / floor.unwrap_or(f64::NAN));
    for Times { name, isolate, release } in all {
        println!(
            "{name:34} {:>17} {:>17} {:>17} {:>17}",
            cell(isolate.p50, floor.map(|floor| floor.isolate.p50)),
            cell(isolate.p99, floor.map(|floor| floor.isolate.p99)),
            cell(release.p50, floor.map(|floor| floor.release.p50)),
            cell(release.p99, floor.map(|floor| floor.release.p99)),
        );
    }
}
