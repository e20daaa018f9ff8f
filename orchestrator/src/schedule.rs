//! The scheduler's tick. Deadlines are the machine's, and the log of orders is their memory; the loop also wakes by itself at each deadline, so a
//! tick that is late delays nothing.

use std::time::Duration;

use portcullis_core::deadlines::Monotonic;
use tokio::sync::watch;
use tokio_cron_scheduler::{Job, JobScheduler};

use crate::clock;

/// The tick comes every second. A longer gap is logged once.
pub const TICK_LATE: Duration = Duration::from_secs(3);

/// A tick, for as long as it is kept.
pub struct Tick {
    _jobs: JobScheduler,
}

/// Starts the tick: the time of the last one, by the boot clock.
pub async fn spawn() -> anyhow::Result<(Tick, watch::Receiver<Monotonic>)> {
    let (ticked, tick) = watch::channel(clock::monotonic());
    let jobs = JobScheduler::new().await?;
    // A job of the cron type: the crate's repeated jobs stop for good when the process was stopped for a while.
    let job = Job::new("* * * * * *", move |_, _| {
        ticked.send_replace(clock::monotonic());
    })?;
    jobs.add(job).await?;
    jobs.start().await?;
    Ok((Tick { _jobs: jobs }, tick))
}
