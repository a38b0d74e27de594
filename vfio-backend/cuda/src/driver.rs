//! The CUDA driver, as far as a worker needs it: one function here for each driver call, with its
//! result as a `Result`.
//!
//! Everything here is called in a worker process, on a thread that made the context current
//! ([`Gpu::make_current`]). What a caller passes is checked where the caller builds it (`arena`, `host`,
//! `stream`): this module keeps only what the C interface itself asks for.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::ptr::null_mut;

use cudarc::driver::sys;

/// A device address.
pub(crate) type DevicePtr = u64;

/// A driver call that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{call}: {} ({code})", name_of(*code))]
pub(crate) struct DriverError {
    /// The call.
    pub(crate) call: &'static str,
    /// `CUresult`.
    pub(crate) code: u32,
}

/// Names of the results that matter here, for logs.
fn name_of(code: u32) -> &'static str {
    match code {
        1 => "invalid value",
        2 => "out of memory",
        3 => "not initialized",
        100 => "no device",
        101 => "invalid device",
        200 => "invalid image",
        201 => "invalid context",
        209 => "no kernel image for this device",
        218 => "invalid PTX",
        222 => "PTX of an unsupported version",
        500 => "not found",
        600 => "not ready",
        700 => "illegal address",
        701 => "launch out of resources",
        702 => "launch timeout",
        712 => "host memory already registered",
        715 => "illegal instruction",
        716 => "misaligned address",
        719 => "launch failed",
        720 => "cooperative launch too large",
        801 => "not supported",
        805 => "MPS connection failed",
        806 => "MPS RPC failure",
        807 => "MPS server not ready",
        808 => "MPS has too many clients",
        809 => "MPS has too many connections",
        810 => "MPS client terminated",
        _ => "driver error",
    }
}

impl DriverError {
    /// Whether the context is spoilt: every later call in it fails as well.
    pub(crate) fn is_fatal(self) -> bool {
        // Launch and memory faults, ECC, MPS and "unknown" are sticky; argument errors are not.
        matches!(self.code, 4 | 201 | 214 | 220 | 700 | 702 | 709..=711 | 714..=719 | 721 | 805..=811 | 999)
    }
}

type Result<T> = std::result::Result<T, DriverError>;

const OUT_OF_MEMORY: u32 = 2;
const NOT_READY: u32 = 600;

fn check(call: &'static str, result: sys::CUresult) -> Result<()> {
    match result as u32 {
        0 => Ok(()),
        code => Err(DriverError { call, code }),
    }
}

/// Whether the driver's library can be loaded; if not, what was looked for.
pub(crate) fn library() -> std::result::Result<(), String> {
    // SAFETY: loading the driver's library runs its initialisers, which is what a caller of CUDA asks for.
    if unsafe { sys::is_culib_present() } {
        return Ok(());
    }
    Err("libcuda.so.1 (also libcuda.so) is not there or cannot be loaded".into())
}

/// A device with its primary context.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gpu {
    device: sys::CUdevice,
    context: Handle<sys::CUctx_st>,
}

/// A pointer that the driver gave out and only the driver follows.
#[derive(Debug)]
struct Handle<T>(*mut T);

impl<T> Clone for Handle<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Handle<T> {}

// SAFETY: contexts, streams, events, modules and functions are names inside the driver, which may be used from
// any thread that made their context current ("CUDA Driver API", thread safety).
unsafe impl<T> Send for Handle<T> {}
// SAFETY: as above; nothing of ours follows the pointer.
unsafe impl<T> Sync for Handle<T> {}

/// What a device is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DeviceInfo {
    pub(crate) name: String,
    pub(crate) memory_bytes: u64,
    pub(crate) multiprocessors: u32,
    /// Major version times ten and minor version of the compute capability.
    pub(crate) compute: u32,
    /// As `cuDriverGetVersion` says: 13000 is 13.0.
    pub(crate) driver: u32,
}

impl Gpu {
    /// Initialises the driver and creates the primary context of a device on the calling thread.
    pub(crate) fn open(ordinal: u32) -> Result<Gpu> {
        let mut device = 0;
        let mut context = null_mut();
        // SAFETY: results go into locals that live through the calls; the ordinal is checked by the driver.
        unsafe {
            check("cuInit", sys::cuInit(0))?;
            check("cuDeviceGet", sys::cuDeviceGet(&mut device, ordinal as c_int))?;
            // Waiting is done by polling; nothing here sleeps in the driver.
            let flags = sys::CUctx_flags_enum::CU_CTX_SCHED_SPIN as c_uint;
            check("cuDevicePrimaryCtxSetFlags", sys::cuDevicePrimaryCtxSetFlags_v2(device, flags))?;
            let retained = sys::cuDevicePrimaryCtxRetain(&mut context, device);
            check("cuDevicePrimaryCtxRetain", retained)?;
        }
        let gpu = Gpu { device, context: Handle(context) };
        gpu.make_current()?;
        Ok(gpu)
    }

    /// Makes the context current on the calling thread.
    pub(crate) fn make_current(&self) -> Result<()> {
        // SAFETY: the context lives until `close`.
        check("cuCtxSetCurrent", unsafe { sys::cuCtxSetCurrent(self.context.0) })
    }

    /// Destroys the context and everything in it.
    pub(crate) fn close(self) -> Result<()> {
        // SAFETY: nothing of the context is used afterwards: the worker's process ends.
        check("cuDevicePrimaryCtxReset", unsafe { sys::cuDevicePrimaryCtxReset_v2(self.device) })
    }

    fn attribute(&self, attribute: sys::CUdevice_attribute) -> Result<u32> {
        let mut value = 0;
        // SAFETY: `value` lives through the call.
        let result = unsafe { sys::cuDeviceGetAttribute(&mut value, attribute, self.device) };
        check("cuDeviceGetAttribute", result)?;
        Ok(value.try_into().unwrap_or(0))
    }

    /// What the device is.
    pub(crate) fn info(&self) -> Result<DeviceInfo> {
        use sys::CUdevice_attribute_enum as A;
        let mut name = [0 as c_char; 64];
        let (mut bytes, mut driver) = (0, 0);
        // SAFETY: the buffer's length is passed (the name is cut to it, with its final zero); results go into locals.
        unsafe {
            let got = sys::cuDeviceGetName(name.as_mut_ptr(), name.len() as c_int, self.device);
            check("cuDeviceGetName", got)?;
            check("cuDeviceTotalMem", sys::cuDeviceTotalMem_v2(&mut bytes, self.device))?;
            check("cuDriverGetVersion", sys::cuDriverGetVersion(&mut driver))?;
        }
        let name: Vec<u8> = name.iter().map(|&c| c as u8).take_while(|&c| c != 0).collect();
        let major = self.attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
        let minor = self.attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
        Ok(DeviceInfo {
            name: String::from_utf8_lossy(&name).into_owned(),
            memory_bytes: bytes as u64,
            multiprocessors: self.attribute(A::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
            compute: major * 10 + minor,
            driver: driver.try_into().unwrap_or(0),
        })
    }

    // --- Address space -------------------------------------------------------------------------

    fn property(&self) -> sys::CUmemAllocationProp {
        // SAFETY: a C structure of integers and a pointer; all zero is "nothing special" in each field.
        let mut property: sys::CUmemAllocationProp = unsafe { std::mem::zeroed() };
        property.type_ = sys::CUmemAllocationType_enum::CU_MEM_ALLOCATION_TYPE_PINNED;
        property.location = self.location();
        property
    }

    fn location(&self) -> sys::CUmemLocation {
        sys::CUmemLocation {
            type_: sys::CUmemLocationType_enum::CU_MEM_LOCATION_TYPE_DEVICE,
            id: self.device,
        }
    }

    /// Size that physical memory and mappings are multiples of, in bytes.
    pub(crate) fn granularity(&self) -> Result<u64> {
        use sys::CUmemAllocationGranularity_flags_enum as G;
        let mut bytes = 0;
        let which = G::CU_MEM_ALLOC_GRANULARITY_RECOMMENDED;
        // SAFETY: result and property live through the call.
        let result =
            unsafe { sys::cuMemGetAllocationGranularity(&mut bytes, &self.property(), which) };
        check("cuMemGetAllocationGranularity", result)?;
        Ok(bytes as u64)
    }

    /// Reserves addresses, exactly at `at` or not at all.
    pub(crate) fn reserve(&self, at: DevicePtr, bytes: u64) -> Result<bool> {
        let mut got = 0;
        // SAFETY: only addresses are reserved; nothing is mapped.
        let result = unsafe { sys::cuMemAddressReserve(&mut got, bytes as usize, 0, at, 0) };
        check("cuMemAddressReserve", result)?;
        if got == at {
            return Ok(true);
        }
        self.unreserve(got, bytes)?;
        Ok(false)
    }

    /// Gives reserved addresses back. Nothing may be mapped there.
    pub(crate) fn unreserve(&self, at: DevicePtr, bytes: u64) -> Result<()> {
        // SAFETY: the range is one that `reserve` got, given back once.
        check("cuMemAddressFree", unsafe { sys::cuMemAddressFree(at, bytes as usize) })
    }

    /// Creates physical memory. `None`: the device has no more.
    pub(crate) fn create(&self, bytes: u64) -> Result<Option<Physical>> {
        let mut handle = 0;
        // SAFETY: result and property live through the call.
        let result = unsafe { sys::cuMemCreate(&mut handle, bytes as usize, &self.property(), 0) };
        match check("cuMemCreate", result) {
            Ok(()) => Ok(Some(Physical(handle))),
            Err(DriverError { code: OUT_OF_MEMORY, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Gives physical memory back, when its last mapping goes.
    pub(crate) fn release(&self, physical: Physical) -> Result<()> {
        // SAFETY: `Physical` is not copied, so it is released once.
        check("cuMemRelease", unsafe { sys::cuMemRelease(physical.0) })
    }

    /// Maps physical memory of `bytes`, all of it, at reserved addresses.
    pub(crate) fn map(&self, at: DevicePtr, bytes: u64, physical: &Physical) -> Result<()> {
        // SAFETY: the driver checks that the range is reserved and not mapped; no host memory is touched.
        check("cuMemMap", unsafe { sys::cuMemMap(at, bytes as usize, 0, physical.0, 0) })
    }

    /// Lets kernels and copies reach a mapped range.
    pub(crate) fn allow(&self, at: DevicePtr, bytes: u64) -> Result<()> {
        let access = sys::CUmemAccessDesc {
            location: self.location(),
            flags: sys::CUmemAccess_flags_enum::CU_MEM_ACCESS_FLAGS_PROT_READWRITE,
        };
        // SAFETY: the description lives through the call and is one long.
        check("cuMemSetAccess", unsafe { sys::cuMemSetAccess(at, bytes as usize, &access, 1) })
    }

    /// Takes whole mappings away. Nothing may run that could reach them.
    pub(crate) fn unmap(&self, at: DevicePtr, bytes: u64) -> Result<()> {
        // SAFETY: device addresses only; the caller has nothing running (see `arena`).
        check("cuMemUnmap", unsafe { sys::cuMemUnmap(at, bytes as usize) })
    }

    /// Device memory the ordinary way, for measurements. It goes with the context.
    pub(crate) fn allocate(&self, bytes: u64) -> Result<DevicePtr> {
        let mut address = 0;
        // SAFETY: the result lives through the call.
        check("cuMemAlloc", unsafe { sys::cuMemAlloc_v2(&mut address, bytes as usize) })?;
        Ok(address)
    }

    // --- Host memory ---------------------------------------------------------------------------

    /// Pins host memory and makes it reachable for copies at full speed.
    ///
    /// # Safety
    /// `[at, at + bytes)` is mapped shared memory of this process, page aligned, and stays mapped until
    /// [`unregister`](Self::unregister).
    pub(crate) unsafe fn register(&self, at: *mut c_void, bytes: u64) -> Result<DevicePtr> {
        let flags = sys::CU_MEMHOSTREGISTER_PORTABLE | sys::CU_MEMHOSTREGISTER_DEVICEMAP;
        let mut device = 0;
        // SAFETY: the caller's promise.
        unsafe {
            let result = sys::cuMemHostRegister_v2(at, bytes as usize, flags);
            check("cuMemHostRegister", result)?;
            let result = sys::cuMemHostGetDevicePointer_v2(&mut device, at, 0);
            check("cuMemHostGetDevicePointer", result)?;
        }
        Ok(device)
    }

    /// Ends a registration.
    ///
    /// # Safety
    /// `at` was registered and nothing under way uses it.
    pub(crate) unsafe fn unregister(&self, at: *mut c_void) -> Result<()> {
        // SAFETY: the caller's promise.
        check("cuMemHostUnregister", unsafe { sys::cuMemHostUnregister(at) })
    }

    // --- Programs ------------------------------------------------------------------------------

    /// Compiles PTX to an image for this device. The error's second part is the compiler's own text.
    pub(crate) fn compile(
        &self,
        text: &CStr,
    ) -> std::result::Result<Vec<u8>, (DriverError, String)> {
        use sys::CUjit_option_enum as O;
        let mut log = vec![0_u8; 4096];
        let mut options = [O::CU_JIT_ERROR_LOG_BUFFER, O::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES];
        let mut values = [log.as_mut_ptr().cast::<c_void>(), log.len() as *mut c_void];
        let mut state = null_mut();
        // SAFETY: `log`, `options` and `values` outlive the linker (destroyed below), the text is terminated by a
        // zero that is counted, as the driver asks, and the image is copied before the linker that owns it goes.
        let result = unsafe {
            let created =
                sys::cuLinkCreate_v2(2, options.as_mut_ptr(), values.as_mut_ptr(), &mut state);
            check("cuLinkCreate", created).and_then(|()| {
                let bytes = text.to_bytes_with_nul();
                let (mut image, mut size) = (null_mut(), 0);
                let added = sys::cuLinkAddData_v2(
                    state,
                    sys::CUjitInputType_enum::CU_JIT_INPUT_PTX,
                    bytes.as_ptr().cast_mut().cast(),
                    bytes.len(),
                    c"tenant".as_ptr(),
                    0,
                    null_mut(),
                    null_mut(),
                );
                let linked = check("cuLinkAddData", added)
                    .and_then(|()| {
                        check("cuLinkComplete", sys::cuLinkComplete(state, &mut image, &mut size))
                    })
                    .map(|()| std::slice::from_raw_parts(image.cast::<u8>(), size).to_vec());
                sys::cuLinkDestroy(state);
                linked
            })
        };
        result.map_err(|error| {
            let end = log.iter().position(|&b| b == 0).unwrap_or(log.len());
            (error, String::from_utf8_lossy(&log[..end]).trim().to_owned())
        })
    }

    /// Loads an image.
    pub(crate) fn load(&self, image: &[u8]) -> Result<Module> {
        let mut module = null_mut();
        // A fat binary or ELF says its own length; a truncated one must not lead the driver past the end, so it
        // gets a copy with a page of zeroes behind it.
        let mut padded = Vec::with_capacity(image.len() + 4096);
        padded.extend_from_slice(image);
        padded.resize(image.len() + 4096, 0);
        // SAFETY: the image outlives the call, which copies what it needs.
        let result = unsafe { sys::cuModuleLoadData(&mut module, padded.as_ptr().cast()) };
        check("cuModuleLoadData", result)?;
        Ok(Module(Handle(module)))
    }

    /// Unloads a module. None of its kernels may run.
    pub(crate) fn unload(&self, module: Module) -> Result<()> {
        // SAFETY: `Module` is not copied, so it is unloaded once; the mediator has nothing of it in flight.
        check("cuModuleUnload", unsafe { sys::cuModuleUnload(module.0.0) })
    }

    /// Finds a kernel. `None`: there is none of that name.
    pub(crate) fn function(&self, module: &Module, name: &str) -> Result<Option<Function>> {
        let Ok(name) = CString::new(name) else { return Ok(None) };
        let mut function = null_mut();
        // SAFETY: the name is terminated; the result lives through the call.
        let result = unsafe { sys::cuModuleGetFunction(&mut function, module.0.0, name.as_ptr()) };
        match check("cuModuleGetFunction", result) {
            Ok(()) => Ok(Some(Function(Handle(function)))),
            Err(DriverError { code: 500, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Bytes of parameters a kernel takes, up to the end of the last.
    pub(crate) fn parameter_bytes(&self, function: &Function) -> Result<u64> {
        let mut end = 0_u64;
        for index in 0..4096 {
            let (mut offset, mut size) = (0, 0);
            // SAFETY: results live through the call.
            let result =
                unsafe { sys::cuFuncGetParamInfo(function.0.0, index, &mut offset, &mut size) };
            match check("cuFuncGetParamInfo", result) {
                Ok(()) => end = end.max((offset + size) as u64),
                // The index after the last.
                Err(DriverError { code: 1, .. }) => break,
                Err(error) => return Err(error),
            }
        }
        Ok(end)
    }

    /// Lets a kernel have so much dynamic shared memory.
    pub(crate) fn allow_shared(&self, function: &Function, bytes: u32) -> Result<()> {
        let which = sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        // SAFETY: an attribute of a live function.
        let result = unsafe { sys::cuFuncSetAttribute(function.0.0, which, bytes as c_int) };
        check("cuFuncSetAttribute", result)
    }

    // --- Streams -------------------------------------------------------------------------------

    /// Creates a stream that does not wait for any other.
    pub(crate) fn stream(&self) -> Result<Stream> {
        let mut stream = null_mut();
        let flags = sys::CUstream_flags_enum::CU_STREAM_NON_BLOCKING as c_uint;
        // SAFETY: the result lives through the call.
        check("cuStreamCreate", unsafe { sys::cuStreamCreate(&mut stream, flags) })?;
        Ok(Stream(Handle(stream)))
    }

    /// Waits until a stream is idle. For short work that is known to end.
    pub(crate) fn wait(&self, stream: &Stream) -> Result<()> {
        // SAFETY: the stream is live.
        check("cuStreamSynchronize", unsafe { sys::cuStreamSynchronize(stream.0.0) })
    }

    /// Fails if the context is spoilt.
    pub(crate) fn health(&self, stream: &Stream) -> Result<()> {
        // SAFETY: the stream is live.
        match check("cuStreamQuery", unsafe { sys::cuStreamQuery(stream.0.0) }) {
            Err(DriverError { code: NOT_READY, .. }) => Ok(()),
            other => other,
        }
    }

    /// Destroys an idle stream.
    pub(crate) fn end_stream(&self, stream: Stream) -> Result<()> {
        // SAFETY: `Stream` is not copied, so it is destroyed once.
        check("cuStreamDestroy", unsafe { sys::cuStreamDestroy_v2(stream.0.0) })
    }

    /// Creates an event that keeps the time.
    pub(crate) fn event(&self) -> Result<Event> {
        let mut event = null_mut();
        // SAFETY: the result lives through the call.
        check("cuEventCreate", unsafe { sys::cuEventCreate(&mut event, 0) })?;
        Ok(Event(Handle(event)))
    }

    /// Puts an event into a stream.
    pub(crate) fn record(&self, event: &Event, stream: &Stream) -> Result<()> {
        // SAFETY: both are live.
        check("cuEventRecord", unsafe { sys::cuEventRecord(event.0.0, stream.0.0) })
    }

    /// Whether an event was reached.
    pub(crate) fn reached(&self, event: &Event) -> Result<bool> {
        // SAFETY: the event is live.
        match check("cuEventQuery", unsafe { sys::cuEventQuery(event.0.0) }) {
            Ok(()) => Ok(true),
            Err(DriverError { code: NOT_READY, .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Nanoseconds of GPU time between two events that were reached.
    pub(crate) fn elapsed_ns(&self, from: &Event, to: &Event) -> Result<u64> {
        let mut milliseconds = 0.0_f32;
        // SAFETY: both are live; the result lives through the call.
        let result = unsafe { sys::cuEventElapsedTime_v2(&mut milliseconds, from.0.0, to.0.0) };
        check("cuEventElapsedTime", result)?;
        // CAST: saturates; never negative for events in order.
        Ok((f64::from(milliseconds) * 1e6).max(0.0) as u64)
    }

    /// Copies between any two places the driver knows: device memory and registered host memory.
    pub(crate) fn copy(
        &self,
        to: DevicePtr,
        from: DevicePtr,
        bytes: u64,
        stream: &Stream,
    ) -> Result<()> {
        // SAFETY: `stream` (our module) resolves both ranges inside live buffers and registered regions, which stay
        // until the copy is answered.
        let result = unsafe { sys::cuMemcpyAsync(to, from, bytes as usize, stream.0.0) };
        check("cuMemcpyAsync", result)
    }

    /// Copies out of device memory into ordinary memory of this process and waits for it.
    pub(crate) fn read(&self, from: DevicePtr, into: &mut [u8]) -> Result<()> {
        // SAFETY: the slice is as long as it says; the call returns when the bytes are there.
        let result = unsafe { sys::cuMemcpyDtoH_v2(into.as_mut_ptr().cast(), from, into.len()) };
        check("cuMemcpyDtoH", result)
    }

    /// Copies ordinary memory of this process into device memory and waits for it.
    pub(crate) fn write(&self, to: DevicePtr, from: &[u8]) -> Result<()> {
        // SAFETY: the slice is as long as it says; the call returns when the bytes were taken.
        check("cuMemcpyHtoD", unsafe { sys::cuMemcpyHtoD_v2(to, from.as_ptr().cast(), from.len()) })
    }

    /// Fills with a pattern of 1, 2, 4 or 8 bytes. `bytes` is a multiple of `width`, `to` aligned to it.
    pub(crate) fn fill(
        &self,
        to: DevicePtr,
        bytes: u64,
        pattern: u64,
        width: u8,
        stream: &Stream,
    ) -> Result<()> {
        let (n, at, s) = (bytes as usize, to, stream.0.0);
        // SAFETY: as for `copy`; the counts cover `bytes` and no more.
        let result = unsafe {
            match width {
                1 => sys::cuMemsetD8Async(at, pattern as u8, n, s),
                2 => sys::cuMemsetD16Async(at, pattern as u16, n / 2, s),
                4 => sys::cuMemsetD32Async(at, pattern as u32, n / 4, s),
                // Two words side by side: every other word of a pitched fill.
                _ => {
                    let (low, high) = (pattern as u32, (pattern >> 32) as u32);
                    if low == high {
                        sys::cuMemsetD32Async(at, low, n / 4, s)
                    } else {
                        match sys::cuMemsetD2D32Async(at, 8, low, 1, n / 8, s) as u32 {
                            0 => sys::cuMemsetD2D32Async(at + 4, 8, high, 1, n / 8, s),
                            code => return Err(DriverError { call: "cuMemsetD2D32Async", code }),
                        }
                    }
                }
            }
        };
        check("cuMemsetAsync", result)
    }

    /// Starts a kernel.
    pub(crate) fn launch(
        &self,
        function: &Function,
        (grid, block): ([u32; 3], [u32; 3]),
        shared_bytes: u32,
        cooperative: bool,
        params: &mut [u8],
        stream: &Stream,
    ) -> Result<()> {
        let mut size = params.len();
        let mut extra: [*mut c_void; 5] = [
            1 as *mut c_void, // CU_LAUNCH_PARAM_BUFFER_POINTER
            params.as_mut_ptr().cast(),
            2 as *mut c_void, // CU_LAUNCH_PARAM_BUFFER_SIZE
            (&raw mut size).cast(),
            null_mut(), // CU_LAUNCH_PARAM_END
        ];
        let cooperate = sys::CUlaunchAttribute_st {
            id: sys::CUlaunchAttributeID_enum::CU_LAUNCH_ATTRIBUTE_COOPERATIVE,
            pad: [0; 4],
            value: sys::CUlaunchAttributeValue_union { cooperative: 1 },
        };
        let mut attributes = [cooperate];
        let config = sys::CUlaunchConfig_st {
            gridDimX: grid[0],
            gridDimY: grid[1],
            gridDimZ: grid[2],
            blockDimX: block[0],
            blockDimY: block[1],
            blockDimZ: block[2],
            sharedMemBytes: shared_bytes,
            hStream: stream.0.0,
            attrs: attributes.as_mut_ptr(),
            numAttrs: cooperative.into(),
        };
        // SAFETY: configuration, attributes and parameters outlive the call, which copies them; the parameters are as
        // long as the kernel says (checked by the mediator against `FunctionGet`'s answer).
        let result =
            unsafe { sys::cuLaunchKernelEx(&config, function.0.0, null_mut(), extra.as_mut_ptr()) };
        check("cuLaunchKernel", result)
    }
}

/// Physical device memory.
#[derive(Debug)]
pub(crate) struct Physical(u64);

/// A loaded module.
#[derive(Debug)]
pub(crate) struct Module(Handle<sys::CUmod_st>);

/// A kernel of a loaded module.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Function(Handle<sys::CUfunc_st>);

/// A stream.
#[derive(Debug)]
pub(crate) struct Stream(Handle<sys::CUstream_st>);

/// An event.
#[derive(Debug)]
pub(crate) struct Event(Handle<sys::CUevent_st>);
