//! Named points on the way of a new order, at which a debug build stops itself when a test asks for it.

#[cfg(debug_assertions)]
use std::sync::atomic::{AtomicBool, Ordering};

/// Set once a new order is on its way: what a start does on its own is no step of an order.
#[cfg(debug_assertions)]
static ON_THE_WAY: AtomicBool = AtomicBool::new(false);

#[cfg(debug_assertions)]
pub fn new_order() {
    ON_THE_WAY.store(true, Ordering::Relaxed);
}

/// The process stops here, once, if PORTCULLIS_STOP_AT names this step. Release builds have nothing of this.
#[cfg(debug_assertions)]
pub fn step(name: &str) {
    static STOPPED: AtomicBool = AtomicBool::new(false);
    let wanted = ON_THE_WAY.load(Ordering::Relaxed) && std::env::var("PORTCULLIS_STOP_AT").is_ok_and(|wanted| wanted == name);
    if wanted && !STOPPED.swap(true, Ordering::Relaxed) {
        tracing::warn!(step = name, "stopping here, as PORTCULLIS_STOP_AT asks");
        if let Err(error) = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::STOP) {
            tracing::error!(%error, "cannot stop this process");
        }
    }
}

/// The thread waits here for as long as the file stands that this variable names.
#[cfg(debug_assertions)]
pub fn hang(variable: &str) {
    let Some(file) = std::env::var_os(variable).map(std::path::PathBuf::from) else { return };
    while file.exists() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

#[cfg(not(debug_assertions))]
#[inline(always)]
pub fn new_order() {}

#[cfg(not(debug_assertions))]
#[inline(always)]
pub fn hang(_variable: &str) {}

#[cfg(not(debug_assertions))]
#[inline(always)]
pub fn step(_name: &str) {}
