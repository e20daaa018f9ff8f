//! bpf(2), as far as programs on devices need it. Asking tcx and taking its programs off takes CAP_NET_ADMIN, opening links CAP_SYS_ADMIN.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// include/uapi/linux/bpf.h
const BPF_PROG_DETACH: libc::c_int = 9;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const BPF_PROG_QUERY: libc::c_int = 16;
const BPF_LINK_GET_FD_BY_ID: libc::c_int = 30;
const BPF_LINK_GET_NEXT_ID: libc::c_int = 31;
const BPF_LINK_DETACH: libc::c_int = 34;
const BPF_F_BEFORE: u32 = 1 << 3;
const BPF_F_AFTER: u32 = 1 << 4;
const BPF_F_ID: u32 = 1 << 5;
const BPF_F_LINK: u32 = 1 << 13;
const BPF_LINK_TYPE_XDP: u32 = 6;
/// BPF_MPROG_MAX: so many are in one list.
const MOST: usize = 64;
/// Kernels take a longer attribute than they know if the rest of it is zero.
const WORDS: usize = 32;

/// A list of programs with the links that hold them (0: none), and the number of its changes.
#[derive(Debug)]
pub(super) struct Query {
    pub revision: u64,
    pub programs: Vec<(u32, u32)>,
}

pub(super) fn query(device: u32, hook: u32) -> io::Result<Query> {
    let (mut programs, mut links) = ([0u32; MOST], [0u32; MOST]);
    let mut words = [0; WORDS];
    words[..2].copy_from_slice(&[device, hook]);
    words[4..6].copy_from_slice(&halves(programs.as_mut_ptr() as u64));
    words[6] = MOST as u32;
    words[10..12].copy_from_slice(&halves(links.as_mut_ptr() as u64));
    call(BPF_PROG_QUERY, &mut words)?;
    let count = (words[6] as usize).min(MOST);
    Ok(Query {
        revision: whole(&words[14..16]),
        programs: programs[..count].iter().copied().zip(links[..count].iter().copied()).collect(),
    })
}

/// Takes one program off, which no descriptor names: the first, or that behind another one, if nothing has changed since.
pub(super) fn detach(device: u32, hook: u32, before: Option<(u32, u32)>, revision: u64) -> io::Result<()> {
    let (flags, relative) = match before {
        None => (BPF_F_BEFORE, 0),
        Some((program, 0)) => (BPF_F_AFTER | BPF_F_ID, program),
        Some((_, link)) => (BPF_F_AFTER | BPF_F_ID | BPF_F_LINK, link),
    };
    let mut words = [0; WORDS];
    words[..6].copy_from_slice(&[device, 0, hook, flags, 0, relative]);
    words[6..8].copy_from_slice(&halves(revision));
    call(BPF_PROG_DETACH, &mut words).map(drop)
}

pub(super) fn detach_link(link: u32) -> io::Result<()> {
    let link = open_link(link).map_err(denied)?;
    let mut words = [0; WORDS];
    words[0] = link.as_raw_fd().cast_unsigned();
    call(BPF_LINK_DETACH, &mut words).map(drop)
}

/// rtnetlink does not name the link that holds a program of XDP.
pub(super) fn detach_link_of_xdp(device: u32, program: u32) -> io::Result<()> {
    let mut last = 0;
    loop {
        let mut words = [0; WORDS];
        words[0] = last;
        if let Err(error) = call(BPF_LINK_GET_NEXT_ID, &mut words) {
            // ENOENT: the end of the list.
            return Err(denied(error));
        }
        last = words[1];
        if let Ok(link) = open_link(last)
            && xdp_of(&link)? == Some((device, program))
        {
            return detach_link(last);
        }
    }
}

fn open_link(link: u32) -> io::Result<OwnedFd> {
    let mut words = [0; WORDS];
    words[0] = link;
    let descriptor = call(BPF_LINK_GET_FD_BY_ID, &mut words)?;
    #[expect(unsafe_code, reason = "a descriptor from bpf(2)")]
    // SAFETY: the kernel has just made it for this call, and nothing else knows it.
    unsafe {
        Ok(OwnedFd::from_raw_fd(descriptor))
    }
}

fn denied(error: io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(libc::EPERM) => {
            io::Error::new(io::ErrorKind::PermissionDenied, "a BPF link holds it, which only CAP_SYS_ADMIN opens")
        }
        _ => error,
    }
}

/// Device and program, where it is a link of XDP.
fn xdp_of(link: &OwnedFd) -> io::Result<Option<(u32, u32)>> {
    let mut info = [0u32; 64];
    let mut words = [0; WORDS];
    words[..2].copy_from_slice(&[link.as_raw_fd().cast_unsigned(), size_of_val(&info) as u32]);
    words[2..4].copy_from_slice(&halves(info.as_mut_ptr() as u64));
    call(BPF_OBJ_GET_INFO_BY_FD, &mut words)?;
    Ok((info[0] == BPF_LINK_TYPE_XDP).then_some((info[4], info[2])))
}

/// `union bpf_attr` as words; pointers in it lead to arrays that outlive the call.
fn call(command: libc::c_int, words: &mut [u32; WORDS]) -> io::Result<libc::c_int> {
    #[expect(unsafe_code, reason = "no crate here has bpf(2)")]
    // SAFETY: the kernel reads and writes this array and the arrays that it points to, all of them with their own lengths.
    let answer = unsafe { libc::syscall(libc::SYS_bpf, command, words.as_mut_ptr(), size_of_val(words)) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer as libc::c_int) }
}

fn halves(value: u64) -> [u32; 2] {
    let bytes = value.to_ne_bytes();
    [[bytes[0], bytes[1], bytes[2], bytes[3]], [bytes[4], bytes[5], bytes[6], bytes[7]]].map(u32::from_ne_bytes)
}

fn whole(words: &[u32]) -> u64 {
    let [a, b] = [words[0].to_ne_bytes(), words[1].to_ne_bytes()];
    u64::from_ne_bytes([a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3]])
}
