//! A tenant that tries everything, and passes only if it is refused everything.
//!
//! Each attack starts from a device that was just reset, says what it expects, and fails if any
//! single case of it ends otherwise: another status, a lost or doubled completion, a byte that
//! changed outside what the tenant holds, a device that no longer serves. What the policy does not
//! grant is an attack of its own: it must end with `denied`.
//!
//! An attack proves nothing about neighbours by itself; that they pass beside it is the harness's
//! to check.

mod descriptors;
mod handles;
mod lab;
mod launches;
mod life;
mod mmio;
mod pages;
mod programs;
mod quota;
mod ranges;
mod rings;

use turnstile_driver::Transport;

use crate::env::Env;
use crate::failure::Failure;
use lab::Lab;

/// How an attack ended, when it ended as it should.
pub(crate) enum Outcome {
    /// Refused with these statuses, among others perhaps.
    Refused(&'static str),
    /// Accepted, and without an effect it must not have.
    Harmless(&'static str),
    /// This tenant or place cannot try it.
    Skipped(&'static str),
}

type Attack<T, E> = fn(&mut Lab<'_, T, E>) -> Result<Outcome, Failure>;

/// Runs the workload.
pub(crate) fn run<T: Transport, E: Env>(transport: &T, env: &E) -> Result<(), Failure>
where
    T::Aperture: Sync,
{
    let mut lab = Lab::new(transport, env)?;
    lab.describe();
    let attacks: &[(&str, Attack<T, E>)] = &[
        ("operations that do not exist", descriptors::unknown_operations),
        ("reserved bits", descriptors::reserved_bits),
        ("stray operand words", descriptors::stray_words),
        ("operations on the wrong queue", descriptors::wrong_queue),
        ("random descriptors", descriptors::random),
        ("mutated descriptors", descriptors::mutated),
        ("descriptors rewritten by a second vCPU", descriptors::raced),
        ("what the policy does not grant", descriptors::not_granted),
        ("null handles", handles::null),
        ("forged handles", handles::forged),
        ("guessed handles of others", handles::guessed),
        ("stale handles", handles::stale),
        ("handles of the wrong kind", handles::wrong_kind),
        ("capabilities without the right", handles::without_right),
        ("rights amplified by derive", handles::amplified),
        ("closing twice", handles::closed_twice),
        ("closing what is mapped", handles::closed_mapped),
        ("closing what is in flight", handles::closed_in_flight),
        ("children of closed capabilities", handles::orphans),
        ("copy ranges at every power of two", ranges::copies),
        ("fill ranges at every power of two", ranges::fills),
        ("overlapping copies", ranges::overlapping),
        ("buffers of impossible size", ranges::sizes),
        ("aperture offsets at every power of two", ranges::aperture),
        ("rings where no ring can be", ranges::rings),
        ("tail beyond the ring", rings::tail_beyond),
        ("tail backwards", rings::tail_backwards),
        ("completion head ahead", rings::head_ahead),
        ("every index at once", rings::all_indices),
        ("the admin ring broken", rings::admin_broken),
        ("the device's own ring fields", rings::device_fields),
        ("rings rewritten by a second vCPU", rings::raced),
        ("doorbell storm", mmio::doorbells),
        ("odd register accesses", mmio::odd),
        ("read-only registers and unknown control bits", mmio::read_only),
        ("negotiation out of turn", mmio::negotiation),
        ("control storm", mmio::control_storm),
        ("pages registered twice", pages::twice),
        ("pages outside memory", pages::outside),
        ("the aperture as DMA memory", pages::aperture),
        ("extent lists of every size", pages::lists),
        ("extent lists rewritten by a second vCPU", pages::raced),
        ("DMA against its access", pages::access),
        ("DMA after unregistering", pages::after),
        ("sessions without end", quota::sessions),
        ("buffers without end", quota::buffers),
        ("bytes without end", quota::bytes),
        ("queues without end", quota::queues),
        ("fences without end", quota::fences),
        ("programs without end", quota::programs),
        ("functions without end", quota::functions),
        ("handles without end", quota::handles),
        ("regions without end", quota::regions),
        ("commands in flight without end", quota::in_flight),
        ("programs that are none", programs::garbage),
        ("programs with one byte changed", programs::flipped),
        ("machine code the policy does not list", programs::unlisted),
        ("kernel names that are none", programs::names),
        ("launches of impossible shape", launches::shapes),
        ("parameter blocks out of range", launches::parameters),
        ("relocations that lie", launches::relocations),
        ("parameters rewritten by a second vCPU", launches::raced),
        ("device addresses in parameters", launches::raw_addresses),
        ("a kernel that reads outside its arena", launches::peek),
        ("a kernel that writes outside its arena", launches::poke),
        ("a kernel that traps", launches::trap),
        ("a kernel that never ends", launches::endless),
        ("fences backwards", life::backwards),
        ("waits for ever", life::forever),
        ("reset in the middle of work", life::reset),
        ("session closed in the middle of work", life::session),
        ("queue destroyed in the middle of work", life::queue),
        ("bytes others left behind", life::stale_bytes),
    ];
    let only = env.arg("only");
    let (mut failed, mut tried, mut skipped) = (0, 0, 0);
    for (name, attack) in attacks {
        if only.is_some_and(|only| !name.contains(only)) {
            continue;
        }
        tried += 1;
        match attack(&mut lab) {
            Ok(Outcome::Refused(how)) => env.print(format_args!("  {name:<48} refused: {how}")),
            Ok(Outcome::Harmless(how)) => env.print(format_args!("  {name:<48} harmless: {how}")),
            Ok(Outcome::Skipped(why)) => {
                skipped += 1;
                env.print(format_args!("  {name:<48} skipped: {why}"));
            }
            Err(failure) => {
                failed += 1;
                env.print(format_args!("  {name:<48} FAILED: {failure}"));
            }
        }
    }
    match lab.works_still() {
        Ok(how) => env.print(format_args!("after all that: {how}")),
        Err(failure) => {
            failed += 1;
            env.print(format_args!("after all that: FAILED: {failure}"));
        }
    }
    env.print(format_args!("{tried} attacks, {skipped} skipped, {failed} failed"));
    if failed == 0 { Ok(()) } else { Err(Failure::Checks { failed, of: tried + 1 }) }
}
