// SPDX-License-Identifier: GPL-2.0
//! seccomp(2): a process that is killed for a system call proves by its end what it did without.

use std::os::raw::c_long;

/// From now on this thread is killed for every system call but these.
pub fn allow_only(calls: &[c_long]) {
    install(
        calls,
        libc::SECCOMP_RET_ALLOW,
        libc::SECCOMP_RET_KILL_PROCESS,
    );
}

/// From now on this thread is killed for these system calls.
pub fn forbid(calls: &[c_long]) {
    install(
        calls,
        libc::SECCOMP_RET_KILL_PROCESS,
        libc::SECCOMP_RET_ALLOW,
    );
}

fn install(calls: &[c_long], action: u32, otherwise: u32) {
    let statement = |code: u32, k| libc::sock_filter {
        code: code as u16,
        jt: 0,
        jf: 0,
        k,
    };
    // The number of the call is the first field of `struct seccomp_data`.
    let mut filter = vec![statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0)];
    for call in calls {
        let mut test = statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, *call as u32);
        test.jf = 1;
        filter.push(test);
        filter.push(statement(libc::BPF_RET | libc::BPF_K, action));
    }
    filter.push(statement(libc::BPF_RET | libc::BPF_K, otherwise));
    let program = libc::sock_fprog {
        len: filter.len() as u16,
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: `program` describes `filter`, which the kernel copies.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        let set = libc::prctl(
            libc::PR_SET_SECCOMP,
            libc::SECCOMP_MODE_FILTER,
            &raw const program,
        );
        assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
    }
}
