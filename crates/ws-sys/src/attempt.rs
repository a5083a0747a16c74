//! One system call, made for real in a process of its own, to see what the kernel says to it.
//!
//! For tests of a sandbox: they must make calls that no library offers, with arguments that no library
//! would pass.

use std::io::{self, PipeReader, Read};
use std::os::fd::AsRawFd;

/// An argument of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Arg {
    /// This value.
    Number(u64),
    /// The address of a copy of these bytes.
    Bytes(Vec<u8>),
}

/// What came of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It was carried out and gave this.
    Returned(i64),
    /// It was refused with this error (errno(3)).
    Refused(i32),
    /// This signal killed its caller.
    Killed(i32),
}

/// Makes the system call `number` in a new process, which ends right after it.
///
/// # Errors
/// When no process can be made. What the call itself gives is the [`Answer`].
///
/// # Panics
/// With more than six arguments: no call has more.
pub fn call(number: i64, args: &[Arg]) -> io::Result<Answer> {
    assert!(args.len() <= 6, "a system call has at most six arguments");
    // Copies that may be written to; their heap addresses stay as they are.
    let mut buffers: Vec<Vec<u8>> = args
        .iter()
        .map(|arg| match arg {
            Arg::Bytes(bytes) => bytes.clone(),
            Arg::Number(_) => Vec::new(),
        })
        .collect();
    let mut values = [0_u64; 6];
    for ((value, arg), buffer) in values.iter_mut().zip(args).zip(&mut buffers) {
        *value = match arg {
            Arg::Number(number) => *number,
            Arg::Bytes(_) => buffer.as_mut_ptr() as u64,
        };
    }
    in_child(|| {
        let [a, b, c, d, e, f] = values;
        // SAFETY: only in the child, which has its own copy of all memory and ends after the call: whatever
        // the kernel writes, no code of ours relies on it afterwards. `in_child` reads the result from this
        // value and errno(3).
        unsafe { libc::syscall(number, a, b, c, d, e, f) }
    })
}

/// Makes the system call `number` of 32-bit programs (`int 0x80`), without arguments, in a new process.
///
/// # Errors
/// When no process can be made.
#[cfg(target_arch = "x86_64")]
pub fn call_i386(number: u32) -> io::Result<Answer> {
    in_child(|| {
        let result: u64;
        // SAFETY: only in the child. The interrupt takes the number in `rax` and arguments in other registers,
        // gives its result in `rax`, and leaves memory alone for calls whose arguments are all 0; it clobbers
        // r8 to r11 on old kernels, which is declared. `rbx` is not an operand: LLVM reserves it.
        unsafe {
            std::arch::asm!(
                "push rbx",
                "xor ebx, ebx",
                "int 0x80",
                "pop rbx",
                inlateout("rax") u64::from(number) => result,
                in("rcx") 0_u64,
                in("rdx") 0_u64,
                in("rsi") 0_u64,
                in("rdi") 0_u64,
                out("r8") _, out("r9") _, out("r10") _, out("r11") _,
            );
        }
        let result = i64::from(result as u32 as i32);
        if (-4095..0).contains(&result) {
            nix::errno::Errno::from_raw(-(result as i32)).set();
            -1
        } else {
            result
        }
    })
}

/// Runs `make`, which gives -1 and errno(3) on failure, in a child.
fn in_child(make: impl FnOnce() -> i64) -> io::Result<Answer> {
    let (reader, writer) = io::pipe()?;
    // SAFETY: the child makes system calls and ends: nothing in it needs a lock that another thread of the
    // parent may hold.
    let pid = unsafe { libc::fork() };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            let result = make();
            let errno = if result == -1 { nix::errno::Errno::last_raw() } else { 0 };
            let mut report = [0_u8; 12];
            report[..8].copy_from_slice(&result.to_ne_bytes());
            report[8..].copy_from_slice(&errno.to_ne_bytes());
            // SAFETY: `report` is a local of this length, `writer` is open.
            unsafe { libc::write(writer.as_raw_fd(), report.as_ptr().cast(), report.len()) };
            crate::process::exit_now(0);
        }
        pid => {
            drop(writer);
            answer(reader, pid)
        }
    }
}

fn answer(mut reader: PipeReader, pid: i32) -> io::Result<Answer> {
    let mut report = Vec::new();
    reader.read_to_end(&mut report)?;
    let pid = rustix::process::Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidData)?;
    let status = loop {
        match rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty()) {
            Err(rustix::io::Errno::INTR) => {}
            other => break other?,
        }
    };
    let field = |range: std::ops::Range<usize>| report.get(range);
    let result = field(0..8).and_then(|bytes| bytes.try_into().ok()).map(i64::from_ne_bytes);
    let errno = field(8..12).and_then(|bytes| bytes.try_into().ok()).map(i32::from_ne_bytes);
    match (result, errno) {
        (Some(-1), Some(errno)) if errno != 0 => Ok(Answer::Refused(errno)),
        (Some(result), Some(_)) => Ok(Answer::Returned(result)),
        _ => match status.and_then(|(_, status)| status.terminating_signal()) {
            Some(signal) => Ok(Answer::Killed(signal)),
            None => Err(io::Error::other("the child ended without an answer")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_told_apart() {
        assert!(matches!(call(libc::SYS_getpid, &[]), Ok(Answer::Returned(pid)) if pid > 0));
        assert_eq!(call(libc::SYS_close, &[Arg::Number(9999)]).unwrap(), Answer::Refused(libc::EBADF));
        let me = rustix::process::getpid().as_raw_pid() as u64;
        assert_eq!(call(libc::SYS_kill, &[Arg::Number(me), Arg::Number(0)]).unwrap(), Answer::Returned(0));
        let path = Arg::Bytes(b"/nowhere-at-all\0".to_vec());
        assert_eq!(call(libc::SYS_chdir, &[path]).unwrap(), Answer::Refused(libc::ENOENT));
    }

    #[test]
    fn a_call_that_kills_is_an_answer() {
        // There is no frame to return to.
        assert_eq!(call(libc::SYS_rt_sigreturn, &[]).unwrap(), Answer::Killed(libc::SIGSEGV));
        assert!(call(libc::SYS_exit_group, &[]).is_err(), "an end without an answer is none");
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn calls_of_32_bit_programs_reach_the_kernel() {
        const GETPID: u32 = 20;
        const CLOSE: u32 = 6;
        match call_i386(GETPID).unwrap() {
            Answer::Returned(pid) => assert!(pid > 0),
            // A kernel without 32-bit emulation.
            other => assert!(matches!(other, Answer::Refused(libc::ENOSYS) | Answer::Killed(libc::SIGSEGV))),
        }
        assert!(matches!(
            call_i386(CLOSE).unwrap(),
            Answer::Returned(0) | Answer::Refused(_) | Answer::Killed(_)
        ));
    }
}
