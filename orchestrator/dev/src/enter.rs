//! Starts a program inside a network namespace: the only unsafe code of this crate.

// `pre_exec` is unsafe because its closure runs between fork and exec, where another thread's lock may be held for ever.
// The closure below therefore allocates nothing and takes no lock: its strings are made before the fork, and it makes
// plain system calls only (openat, setns, unshare, sethostname, prctl, getppid, close).
#![allow(unsafe_code)]

use std::ffi::CString;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, Signal};
use rustix::system::sethostname;
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

/// Makes `command` enter the namespace at `path` before it executes.
pub(crate) fn enter_on_exec(command: &mut Command, path: CString) {
    let enter = move || -> io::Result<()> {
        let file = rustix::fs::open(path.as_c_str(), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
        Ok(())
    };
    // SAFETY: only async-signal-safe calls, see the top of this file.
    unsafe { command.pre_exec(enter) };
}

/// Gives the process a host name of its own: agents of one lab would otherwise all claim this machine's.
pub(crate) fn name_on_exec(command: &mut Command, name: &str) {
    let name = name.as_bytes().to_vec();
    let rename = move || -> io::Result<()> {
        // SAFETY: nothing in this process shares the UTS namespace's state by pointer; between fork and exec there is one thread.
        unsafe { unshare_unsafe(UnshareFlags::NEWUTS) }?;
        sethostname(&name)?;
        Ok(())
    };
    // SAFETY: only async-signal-safe calls, see the top of this file.
    unsafe { command.pre_exec(rename) };
}

/// Makes the process die with the THREAD that spawns it, also when that is killed.
pub fn die_with_spawner(command: &mut Command) {
    let parent = rustix::process::getpid();
    let arm = move || -> io::Result<()> {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        // The parent may have died before the line above: then no signal will ever come.
        if rustix::process::getppid() == Some(parent) { Ok(()) } else { Err(io::Error::from_raw_os_error(NO_SUCH_PROCESS)) }
    };
    // SAFETY: only async-signal-safe calls, see the top of this file.
    unsafe { command.pre_exec(arm) };
}

const NO_SUCH_PROCESS: i32 = rustix::io::Errno::SRCH.raw_os_error();

/// A pid as the kernel's, if it is one.
pub(crate) fn pid(raw: u32) -> Option<Pid> {
    i32::try_from(raw).ok().and_then(Pid::from_raw)
}
