//! Checks programs outside the dispatcher: parsing, guarding and verifying take milliseconds.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, unbounded};
use sha2::{Digest, Sha256};
use turnstile_abi::request::Format;
use turnstile_backend_api::{Code, Ticket};
use turnstile_core::{ProgramRefused, VerifyJob};
use turnstile_policy::{Guard, authorize_image};
use turnstile_ptx::{Admission, Arena, GuardMode, Limits};

use super::wake::Wake;

/// A job's answer.
pub(super) type Checked = (Ticket, Result<Code, ProgramRefused>);

/// A fixed number of threads. Jobs wait in a queue without a bound of its own: the mediator lets
/// each tenant have one program in the making, so there are never more jobs than tenants.
pub(super) struct Checkers {
    jobs: Option<Sender<(Ticket, VerifyJob)>>,
    answers: Receiver<Checked>,
    threads: Vec<JoinHandle<()>>,
}

impl Checkers {
    pub(super) fn start(count: usize, wake: &Wake) -> std::io::Result<Checkers> {
        let (jobs, todo) = unbounded::<(Ticket, VerifyJob)>();
        let (done, answers) = unbounded();
        let threads = (0..count.max(1))
            .map(|n| {
                let (todo, done, wake) = (todo.clone(), done.clone(), wake.clone());
                std::thread::Builder::new().name(format!("check-{n}")).spawn(move || {
                    for (ticket, job) in &todo {
                        // The checker is total by design; if it has a bug, that costs this program.
                        let result = catch_unwind(AssertUnwindSafe(|| check_program(job)))
                            .unwrap_or_else(|_| Err(refused(0, "the checker failed on it".into())));
                        if done.send((ticket, result)).is_err() {
                            break;
                        }
                        wake.wake();
                    }
                })
            })
            .collect::<Result<_, _>>()?;
        Ok(Checkers { jobs: Some(jobs), answers, threads })
    }

    pub(super) fn submit(&self, ticket: Ticket, job: VerifyJob) {
        // The threads live as long as this sender does.
        if let Some(jobs) = &self.jobs {
            let _ = jobs.send((ticket, job));
        }
    }

    pub(super) fn next(&self) -> Option<Checked> {
        self.answers.try_recv().ok()
    }

    pub(super) fn is_idle(&self) -> bool {
        self.answers.is_empty()
    }
}

impl Drop for Checkers {
    fn drop(&mut self) {
        self.jobs = None;
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn refused(line: u32, why: String) -> ProgramRefused {
    ProgramRefused { line, why }
}

/// Decides whether an image may be loaded, and makes it loadable: PTX through the guard and the
/// verifier, machine code by its hash.
///
/// # Errors
/// Why not, with the line in the tenant's text.
pub fn check_program(job: VerifyJob) -> Result<Code, ProgramRefused> {
    let VerifyJob { image, format, policy, arena, serial } = job;
    match format {
        Format::Image => {
            let hash: [u8; 32] = Sha256::digest(&image).into();
            authorize_image(&policy, &hash).map_err(|denial| refused(0, denial.to_string()))?;
            Ok(Code::Listed(image))
        }
        Format::Ptx => {
            let grant = policy.grants.program.as_ref();
            let grant = grant.ok_or_else(|| refused(0, "the policy grants no programs".into()))?;
            let mode = match grant.guard {
                Guard::None => GuardMode::None,
                Guard::Check => GuardMode::Check,
                Guard::Fence => GuardMode::Fence,
            };
            let bytes = usize::try_from(grant.max_bytes).unwrap_or(usize::MAX);
            let most = Limits::default().max_bytes;
            let limits = Limits { max_bytes: bytes.min(most), ..Limits::default() };
            let admission = match mode {
                GuardMode::None => Admission::unguarded(limits),
                _ => {
                    let arena =
                        Arena::new(arena.0, arena.1).map_err(|e| refused(0, e.to_string()))?;
                    let variables = Some(variables_of(arena, serial));
                    Admission { variables, ..Admission::guarded(mode, arena, limits) }
                }
            };
            turnstile_ptx::admit(&image, &admission)
                .map(|module| Code::Ptx(Box::new(module)))
                .map_err(|error| refused(error.line().unwrap_or(0), error.to_string()))
        }
    }
}

/// Where the variables of a tenant's n-th program go: after the guard's record, one of 255 places of
/// 4 MiB in the first GiB of the arena, which backends keep free for this. A place that is still
/// taken by an older program makes the load fail.
fn variables_of(arena: Arena, serial: u64) -> u64 {
    const PLACE: u64 = 4 << 20;
    arena.base() + turnstile_ptx::RED_ZONE + PLACE * (1 + serial % 255)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_of_programs_lie_apart_in_the_first_part_of_the_arena() {
        let arena = Arena::new(1 << 46, 4 << 30).unwrap();
        let at: Vec<u64> = (0..255).map(|serial| variables_of(arena, serial)).collect();
        assert!(at.windows(2).all(|w| w[1] >= w[0] + (4 << 20)));
        assert!(
            at[0] >= arena.base() + turnstile_ptx::RED_ZONE + turnstile_ptx::guard::RECORD_BYTES
        );
        assert!(at[254] + (4 << 20) <= arena.base() + (1 << 30) + (32 << 20));
    }
}
