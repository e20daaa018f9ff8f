//! Failpoints: named steps at which crash tests stop the process.

/// In debug builds: stops this process with SIGSTOP, once, where `PORTCULLIS_STOP_AT` names the step. A test then sees it stopped and ends it,
/// or the broker, at exactly this point.
#[cfg(debug_assertions)]
pub fn reach(name: &str) {
    use std::sync::atomic::{AtomicBool, Ordering};
    static STOPPED: AtomicBool = AtomicBool::new(false);
    let wanted = std::env::var("PORTCULLIS_STOP_AT").is_ok_and(|wanted| wanted == name);
    if wanted && !STOPPED.swap(true, Ordering::SeqCst) {
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::STOP);
    }
}

#[cfg(not(debug_assertions))]
pub fn reach(_name: &str) {}
