# The GPU as object capabilities, over a Unix socket.
#
# The bootstrap object of a connection is a GpuDeviceManager. A reference is the permission: whoever
# holds one may use the object, and nothing else names it. Dropping the last reference closes the
# object. Closing a session closes everything that was made in it.
#
# Errors are exceptions. Their reason begins with a word from the table in docs/rpc.md and a colon
# ("quota: …", "revoked: …"), their type says what to do: *failed*, the call is wrong or not allowed;
# *overloaded*, a limit is reached, try again when something is freed; *disconnected*, the object is
# closed, revoked or its device lost, get a new one; *unimplemented*, there is no such method.

@0xb3d594dbdb1fa2ad;

struct GpuDeviceInfo {
  index @0 :UInt32;
  # For openDevice.
  name @1 :Text;
  # What it is.
  memoryBytes @2 :UInt64;
  # Device memory this client may hold. As every limit here, it is the client's own, out of the policy.
  buffers @3 :UInt64;
  # Buffers it may hold.
  programBytes @4 :UInt64;
  # Largest program image.
  threadsPerBlock @5 :UInt64;
  blocks @6 :UInt64;
  # Largest launch.
  launchTimeoutNanos @7 :UInt64;
  # Longest run of a kernel.
  inFlight @8 :UInt64;
  # Commands that may run or wait at once.
  multiprocessors @9 :UInt64;
}

interface GpuDeviceManager {
  listDevices @0 () -> (devices :List(GpuDeviceInfo));
  # The devices of this client. At present there is one.

  openDevice @1 (index :UInt32) -> (session :GpuSession);
  # Opens a session: an address space on the GPU, and the parent of everything made in it.
}

enum BufferUsage {
  device @0;
  # In the GPU's own memory. Kernels and copies reach it, the client does not.
  host @1;
  # In memory that the client can map.
}

enum ProgramFormat {
  ptx @0;
  # PTX text. It is checked and rewritten before it is loaded.
  image @1;
  # A binary image, where the policy lists its SHA-256.
}

enum Access {
  read @0;
  write @1;
  readWrite @2;
}

struct Dim3 {
  x @0 :UInt32 = 1;
  y @1 :UInt32 = 1;
  z @2 :UInt32 = 1;
}

struct BufferArgument {
  buffer @0 :GpuBuffer;
  offset @1 :UInt64;
  # Byte of the buffer whose address the kernel gets.
  access @2 :Access = readWrite;
  # What the kernel will do with it; the buffer must allow it.
}

struct Argument {
  # One parameter of a kernel, in the kernel's order.
  union {
    buffer @0 :BufferArgument;
    u8 @1 :UInt8;
    u16 @2 :UInt16;
    u32 @3 :UInt32;
    u64 @4 :UInt64;
    i8 @5 :Int8;
    i16 @6 :Int16;
    i32 @7 :Int32;
    i64 @8 :Int64;
    f32 @9 :Float32;
    f64 @10 :Float64;
  }
}

interface GpuSession {
  # Commands of a session run in the order in which they were submitted.

  createBuffer @0 (bytes :UInt64, usage :BufferUsage) -> (buffer :GpuBuffer);
  # Creates a zeroed buffer.

  destroyBuffer @1 (buffer :GpuBuffer) -> ();
  # Like GpuBuffer.close. The buffer must be of this session.

  loadProgram @2 (image :Data, format :ProgramFormat) -> (program :GpuProgram);
  # Checks, guards and loads a program.

  launchKernel @3 (kernel :GpuKernel, grid :Dim3, block :Dim3, sharedBytes :UInt32,
                   arguments :List(Argument), fence :GpuFence) -> ();
  # Submits a launch. Returns when it is submitted; the fence, if one is given, tells the rest.

  submitMemcpy @4 (dst :GpuBuffer, dstOffset :UInt64, src :GpuBuffer, srcOffset :UInt64,
                   bytes :UInt64, fence :GpuFence) -> ();
  # Submits a copy between two buffers.

  submitFenceWait @5 (fence :GpuFence, timeoutNanos :UInt64) -> ();
  # Submits a wait, on the GPU's side, until everything that was submitted with this fence is done.
  # What is submitted to this session afterwards runs after that. The fence may be another session's.

  close @6 () -> ();
  # Ends the session and everything in it. Returns when its memory is reclaimed.

  createFence @7 () -> (fence :GpuFence);
}

struct MemoryRegion {
  # Where to fetch a mapping's file descriptor: connect to the Unix stream socket, send the token,
  # receive one byte with a descriptor in ancillary data (SCM_RIGHTS). The token works once, within
  # 30 seconds, for a process of the same user.
  socket @0 :Text;
  token @1 :Data;
  # 32 bytes.
  offset @2 :UInt64;
  # Where the buffer begins in the file, a multiple of 256.
  bytes @3 :UInt64;
  # Its length.
}

interface GpuBuffer {
  map @0 () -> (region :MemoryRegion);
  # Gives a host-visible buffer to the client as memory. A mapped buffer cannot be destroyed.

  unmap @1 () -> ();
  # Gives a mapping back. The client must not touch the memory any more: what it finds there may be
  # another buffer of its own.

  size @2 () -> (bytes :UInt64);

  close @3 () -> ();
}

interface GpuProgram {
  kernel @0 (entry :Text) -> (kernel :GpuKernel, parameterBytes :UInt32);
  # The kernel with this entry point.

  close @1 () -> ();
}

interface GpuKernel {
  # Something to launch.
  close @0 () -> ();
}

enum FenceStatus {
  idle @0;
  # Nothing was submitted with it.
  pending @1;
  # Something is not done yet.
  complete @2;
  # Everything is done, and worked.
  failed @3;
  # Everything is done, and something failed; wait says what.
}

interface GpuFence {
  poll @0 () -> (status :FenceStatus);

  wait @1 (timeoutNanos :UInt64) -> (ok :Bool);
  # Waits until everything that was submitted with this fence so far is done. False when the time is
  # over; an exception when something failed.

  close @2 () -> ();
}
