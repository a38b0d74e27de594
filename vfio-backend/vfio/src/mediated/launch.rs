//! A launch, said again in the outer device's words: addresses become buffers once more.

use turnstile_abi::Status;
use turnstile_abi::request::Access;
use turnstile_backend_api::{BackendOp, Outcome};
use turnstile_driver::{Launch, Pattern, Queue, Token, Transport};

use super::life::Fail;
use super::space::{Held, Space};

/// Addresses of host-visible buffers, which the outer device's kernels cannot reach: so far up that
/// they are nobody's, with the I/O virtual address below.
pub(super) const SHARED: u64 = 1 << 60;

/// Puts the parameters into a launch. The mediator has written device addresses into them; the outer
/// device takes addresses by handle only, unless its policy says otherwise.
pub(super) fn parameters<T: Transport>(
    space: &Space<'_, T>,
    launch: &mut Launch<'_, T>,
    params: &[u8],
) -> Result<(), Fail> {
    let chunks = params.chunks_exact(8);
    let tail = chunks.remainder();
    for chunk in chunks {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(chunk);
        let word = u64::from_le_bytes(bytes);
        match target(space, word) {
            Target::Number => launch.value(word).map(drop)?,
            Target::Device(handle, offset) => {
                launch.relocate(handle, offset, Access::ReadWrite).map(drop)?;
            }
            // Better no launch than one that computes on something else.
            Target::Shared => return Err(Outcome::failed(Status::Unsupported, 0).into()),
        }
    }
    let mut tail = tail;
    if let [a, b, c, d, rest @ ..] = tail {
        launch.value(u32::from_le_bytes([*a, *b, *c, *d])).map(drop)?;
        tail = rest;
    }
    if let [a, b, rest @ ..] = tail {
        launch.value(u16::from_le_bytes([*a, *b])).map(drop)?;
        tail = rest;
    }
    if let [a] = tail {
        launch.value(*a).map(drop)?;
    }
    Ok(())
}

enum Target {
    Number,
    Device(turnstile_abi::Handle, u64),
    Shared,
}

fn target<T: Transport>(space: &Space<'_, T>, word: u64) -> Target {
    let Some((&start, id)) = space.addresses.range(..=word).next_back() else {
        return Target::Number;
    };
    let offset = word - start;
    match space.buffers.get(id) {
        Some(Held::Device(buffer)) if offset < buffer.bytes() => {
            Target::Device(buffer.handle(), offset)
        }
        Some(Held::Shared(shared)) if offset < shared.bytes => Target::Shared,
        _ => Target::Number,
    }
}

/// A command in the outer device's ring: its token, what its answer's value is if that is known, and
/// whether its time counts.
pub(super) type HandedOver = (Token, Option<u64>, bool);

/// Puts one operation into an outer queue.
pub(super) fn hand_over<'d, T: Transport>(
    space: &Space<'d, T>,
    queue: &mut Queue<'d, T>,
    op: &BackendOp,
) -> Result<HandedOver, Fail> {
    let missing = || Fail::from(Outcome::failed(Status::NotFound, 0));
    let place = |p| space.place(p).ok_or_else(missing);
    match op {
        BackendOp::Copy { dst, src, bytes, .. } => {
            let token = queue.copy(place(*dst)?, place(*src)?, *bytes)?;
            Ok((token, Some(*bytes), false))
        }
        BackendOp::Fill { dst, bytes, pattern, width, .. } => {
            let pattern = match width {
                // CAST: the pattern is in the low bits.
                1 => Pattern::U8(*pattern as u8),
                2 => Pattern::U16(*pattern as u16),
                4 => Pattern::U32(*pattern as u32),
                _ => Pattern::U64(*pattern),
            };
            let token = queue.fill(place(*dst)?, *bytes, pattern)?;
            Ok((token, Some(*bytes), false))
        }
        BackendOp::Launch { function, grid, block, shared_bytes, cooperative, params, .. } => {
            let kernel = space.functions.get(function).ok_or_else(missing)?;
            let out = |_| Fail::from(Outcome::failed(Status::OutOfRange, 0));
            let [x, y, z] = *block;
            let threads = [
                u16::try_from(x).map_err(out)?,
                u16::try_from(y).map_err(out)?,
                u16::try_from(z).map_err(out)?,
            ];
            let mut launch = kernel.function.launch(*grid, threads)?;
            let dynamic = u32::try_from(kernel.dynamic_shared).map_err(out)?;
            launch.shared(dynamic.max(*shared_bytes));
            if *cooperative {
                launch.cooperative();
            }
            parameters(space, &mut launch, params)?;
            Ok((queue.launch(launch)?, None, true))
        }
        BackendOp::Timestamp { .. } => Ok((queue.timestamp()?, None, false)),
        _ => Err(Outcome::failed(Status::Backend, 0).into()),
    }
}
