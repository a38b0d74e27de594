//! The C interface: `include/turnstile.h` is made from this module.
//!
//! Small on purpose: open a device, ask what this tenant may do, run a kernel from host memory to
//! host memory. A call returns 0, or a negative number and [`turnstile_error`] says why.
#![allow(unsafe_code)]

use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char, c_int, c_void};

use turnstile_driver::DeviceManager;

use crate::Device;
use crate::job::{self, Argument, Job};

/// It worked.
pub const TURNSTILE_OK: c_int = 0;
/// The call was wrong: a null pointer, a kind that there is not, text that is not UTF-8.
pub const TURNSTILE_INVALID: c_int = -1;
/// There is no device, or it cannot be reached.
pub const TURNSTILE_NO_DEVICE: c_int = -2;
/// The device refused or failed it.
pub const TURNSTILE_FAILED: c_int = -3;

/// An argument that is a number of 1, 2, 4 or 8 bytes.
pub const TURNSTILE_VALUE: u32 = 0;
/// An argument that is memory the kernel reads.
pub const TURNSTILE_IN: u32 = 1;
/// An argument that is memory the kernel writes.
pub const TURNSTILE_OUT: u32 = 2;
/// An argument that is memory the kernel reads and writes.
pub const TURNSTILE_IN_OUT: u32 = 3;

/// An open device. One thread at a time may use it.
pub struct TurnstileDevice(Device);

/// What this tenant may do; 0 means not granted.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct TurnstileLimits {
    /// ABI version of the device, major in the upper half.
    pub version: u64,
    /// Device memory it may hold, in bytes.
    pub memory_bytes: u64,
    /// Work queues.
    pub queues: u64,
    /// Threads a block may have.
    pub threads_per_block: u64,
    /// Blocks a launch may have.
    pub blocks: u64,
    /// Longest run time of a launch, in nanoseconds.
    pub launch_timeout_ns: u64,
    /// Largest program, in bytes.
    pub program_bytes: u64,
    /// Multiprocessors of the device.
    pub multiprocessors: u64,
}

/// An argument of a kernel.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct TurnstileArgument {
    /// `TURNSTILE_VALUE`, `_IN`, `_OUT` or `_IN_OUT`.
    pub kind: u32,
    /// The number, or the memory.
    pub data: *mut c_void,
    /// Its length in bytes.
    pub bytes: usize,
}

/// A kernel to run.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct TurnstileLaunch {
    /// The module, PTX; need not end with a NUL.
    pub ptx: *const c_char,
    /// Its length in bytes.
    pub ptx_bytes: usize,
    /// Name of the kernel, NUL-terminated.
    pub kernel: *const c_char,
    /// Blocks of the grid.
    pub blocks: [u32; 3],
    /// Threads of a block.
    pub threads: [u16; 3],
    /// Dynamic shared memory, in bytes.
    pub shared_bytes: u32,
    /// Longest wait for the kernel, in nanoseconds.
    pub timeout_ns: u64,
    /// The kernel's arguments, in order.
    pub arguments: *const TurnstileArgument,
    /// How many.
    pub argument_count: usize,
}

thread_local! {
    static ERROR: RefCell<CString> = RefCell::default();
}

fn fail(code: c_int, why: &dyn std::fmt::Display) -> c_int {
    let text = why.to_string().replace('\0', " ");
    ERROR.with_borrow_mut(|error| *error = CString::new(text).unwrap_or_default());
    code
}

/// Why the last call of this thread failed: text that is valid until the next call.
#[unsafe(no_mangle)]
pub extern "C" fn turnstile_error() -> *const c_char {
    ERROR.with_borrow(|error| error.as_ptr())
}

/// Opens the device at a PCI address such as "0000:00:04.0", or with NULL the first there is.
/// Returns NULL when there is none or it cannot be reached.
///
/// # Safety
/// `address` is NULL or a NUL-terminated string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn turnstile_open(address: *const c_char) -> *mut TurnstileDevice {
    // SAFETY: not null, and so a C string, as the caller promises.
    let address = (!address.is_null()).then(|| unsafe { CStr::from_ptr(address) });
    let Ok(address) = address.map(CStr::to_str).transpose() else {
        fail(TURNSTILE_INVALID, &"the address is not UTF-8");
        return std::ptr::null_mut();
    };
    match Device::open(address) {
        Ok(device) => Box::into_raw(Box::new(TurnstileDevice(device))),
        Err(error) => {
            fail(TURNSTILE_NO_DEVICE, &error);
            std::ptr::null_mut()
        }
    }
}

/// Closes a device. NULL is none.
///
/// # Safety
/// `device` is NULL, or came from `turnstile_open` and was not closed yet.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn turnstile_close(device: *mut TurnstileDevice) {
    if !device.is_null() {
        // SAFETY: it came out of a box in `turnstile_open`, and is given back once.
        drop(unsafe { Box::from_raw(device) });
    }
}

/// Asks what this tenant may do. Resets the device.
///
/// # Safety
/// `device` is NULL or an open device that no other thread uses now; `limits` is NULL or can be
/// written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn turnstile_limits(
    device: *mut TurnstileDevice,
    limits: *mut TurnstileLimits,
) -> c_int {
    // SAFETY: null, or an open device, as the caller promises.
    let device = unsafe { device.as_ref() };
    let (Some(device), false) = (device, limits.is_null()) else {
        return fail(TURNSTILE_INVALID, &"a null pointer");
    };
    let identity = DeviceManager::start(&device.0).and_then(|manager| manager.identify());
    match identity {
        Ok(i) => {
            let value = TurnstileLimits {
                version: i.version,
                memory_bytes: i.memory_bytes,
                queues: i.queues,
                threads_per_block: i.threads_per_block,
                blocks: i.blocks,
                launch_timeout_ns: i.launch_timeout_ns,
                program_bytes: i.program_bytes,
                multiprocessors: i.multiprocessors,
            };
            // SAFETY: not null, and so writable, as the caller promises.
            unsafe { limits.write(value) };
            TURNSTILE_OK
        }
        Err(error) => fail(TURNSTILE_FAILED, &error),
    }
}

/// Runs a kernel and waits for it: resets the device, copies memory arguments to it, launches, and
/// copies those that the kernel may write back.
///
/// # Safety
/// `device` is NULL or an open device that no other thread uses now. `launch` is NULL or points to a
/// launch whose pointers are valid for the lengths beside them; memory of `_OUT` and `_IN_OUT`
/// arguments can be written and overlaps nothing else.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn turnstile_launch(
    device: *mut TurnstileDevice,
    launch: *const TurnstileLaunch,
) -> c_int {
    // SAFETY: null, or an open device, as the caller promises.
    let device = unsafe { device.as_ref() };
    // SAFETY: null, or a launch, as the caller promises.
    let launch = unsafe { launch.as_ref() };
    let (Some(device), Some(launch)) = (device, launch) else {
        return fail(TURNSTILE_INVALID, &"a null pointer");
    };
    let no_arguments = launch.arguments.is_null() && launch.argument_count > 0;
    if launch.ptx.is_null() || launch.kernel.is_null() || no_arguments {
        return fail(TURNSTILE_INVALID, &"a null pointer in the launch");
    }
    // SAFETY: valid for its length, as the caller promises.
    let ptx = unsafe { std::slice::from_raw_parts(launch.ptx.cast::<u8>(), launch.ptx_bytes) };
    // SAFETY: a C string, as the caller promises.
    let Ok(kernel) = unsafe { CStr::from_ptr(launch.kernel) }.to_str() else {
        return fail(TURNSTILE_INVALID, &"the kernel's name is not UTF-8");
    };
    let mut arguments = Vec::with_capacity(launch.argument_count.min(1024));
    for i in 0..launch.argument_count {
        // SAFETY: `argument_count` of them, as the caller promises.
        let a = unsafe { launch.arguments.add(i).read() };
        if a.data.is_null() {
            return fail(TURNSTILE_INVALID, &format_args!("argument {i} is a null pointer"));
        }
        let (data, bytes) = (a.data.cast::<u8>(), a.bytes);
        // SAFETY: valid for its length, as the caller promises; writable and alone where it has to
        // be.
        arguments.push(unsafe {
            match a.kind {
                TURNSTILE_VALUE if matches!(bytes, 1 | 2 | 4 | 8) => {
                    Argument::Value(std::slice::from_raw_parts(data, bytes))
                }
                TURNSTILE_IN => Argument::In(std::slice::from_raw_parts(data, bytes)),
                TURNSTILE_OUT => Argument::Out(std::slice::from_raw_parts_mut(data, bytes)),
                TURNSTILE_IN_OUT => Argument::InOut(std::slice::from_raw_parts_mut(data, bytes)),
                _ => return fail(TURNSTILE_INVALID, &format_args!("argument {i} is of no kind")),
            }
        });
    }
    let TurnstileLaunch { blocks, threads, shared_bytes, timeout_ns, .. } = *launch;
    let job = Job { ptx, kernel, blocks, threads, shared_bytes, timeout_ns };
    match job::run(&device.0, &job, &mut arguments) {
        Ok(()) => TURNSTILE_OK,
        Err(error) => fail(TURNSTILE_FAILED, &error),
    }
}
