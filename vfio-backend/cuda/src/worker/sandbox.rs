//! What a worker gives up once its context is there: new privileges, other programs, the network, other
//! processes, mounts, tracing.
//!
//! The driver is not ours: it opens `/dev/nvidia*`, maps memory and starts threads when it likes, so the
//! filter names what is refused, not what is allowed. A refused call fails with `EPERM`; nothing dies of it.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

/// Calls that no worker needs: from Linux's table for x86-64 and aarch64, by number from `libc`.
const REFUSED: &[i64] = &[
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsmount,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setgroups,
    libc::SYS_capset,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_syslog,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_listen,
    libc::SYS_accept4,
    libc::SYS_unlinkat,
    libc::SYS_renameat2,
    libc::SYS_linkat,
    libc::SYS_symlinkat,
    libc::SYS_mkdirat,
    libc::SYS_fchmodat,
    libc::SYS_fchownat,
];

/// The older names of some of them, which other architectures never had.
#[cfg(target_arch = "x86_64")]
const REFUSED_TOO: &[i64] = &[
    libc::SYS_accept,
    libc::SYS_unlink,
    libc::SYS_rmdir,
    libc::SYS_rename,
    libc::SYS_renameat,
    libc::SYS_link,
    libc::SYS_symlink,
    libc::SYS_mkdir,
    libc::SYS_chmod,
    libc::SYS_chown,
    libc::SYS_lchown,
];
#[cfg(not(target_arch = "x86_64"))]
const REFUSED_TOO: &[i64] = &[];

/// Enters the sandbox: this thread and those it starts from here on, and those there are already.
pub(super) fn enter() -> Result<(), String> {
    let failed = |what: &str, why: &dyn std::fmt::Display| format!("sandbox: {what}: {why}");
    rustix::thread::set_no_new_privs(true).map_err(|e| failed("no_new_privs", &e))?;
    // A core dump would hold what the tenant's memory held.
    let none = rustix::process::Rlimit { current: Some(0), maximum: Some(0) };
    rustix::process::setrlimit(rustix::process::Resource::Core, none)
        .map_err(|e| failed("no core dumps", &e))?;
    let program = filter().map_err(|e| failed("filter", &e))?;
    seccompiler::apply_filter_all_threads(&program).map_err(|e| failed("seccomp", &e))
}

fn filter() -> Result<BpfProgram, seccompiler::BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        REFUSED.iter().chain(REFUSED_TOO).map(|&call| (call, Vec::new())).collect();
    // Sockets in the file system's name space only: MPS is one, the network is none.
    let not_unix = SeccompCondition::new(
        0,
        SeccompCmpArgLen::Dword,
        SeccompCmpOp::Ne,
        libc::AF_UNIX as u64, // CAST: a small positive constant.
    )?;
    rules.insert(libc::SYS_socket, vec![SeccompRule::new(vec![not_unix])?]);
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    let refuse = SeccompAction::Errno(libc::EPERM as u32); // CAST: a small positive constant.
    SeccompFilter::new(rules, SeccompAction::Allow, refuse, arch)?.try_into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filtered_thread_has_no_network_and_runs_nothing_but_keeps_its_files() {
        let program = filter().unwrap();
        // On a thread of its own: the filter stays.
        std::thread::spawn(move || {
            rustix::thread::set_no_new_privs(true).unwrap();
            seccompiler::apply_filter(&program).unwrap();
            assert!(std::net::UdpSocket::bind("127.0.0.1:0").is_err());
            assert!(std::process::Command::new("/bin/true").status().is_err());
            assert!(std::os::unix::net::UnixDatagram::unbound().is_ok());
            assert!(std::fs::read("/proc/self/stat").is_ok());
            assert!(std::fs::create_dir("/tmp/turnstile-worker-may-not").is_err());
        })
        .join()
        .unwrap();
    }
}
