/* The Turnstile driver for programs in a Linux guest. Made by cbindgen from
 * guest-driver/linux/src/c.rs: change that, then run the crate's tests with TURNSTILE_BLESS=1. */

#ifndef TURNSTILE_H
#define TURNSTILE_H

#include <stddef.h>
#include <stdint.h>

// It worked.
#define TURNSTILE_OK 0

// The call was wrong: a null pointer, a kind that there is not, text that is not UTF-8.
#define TURNSTILE_INVALID -1

// There is no device, or it cannot be reached.
#define TURNSTILE_NO_DEVICE -2

// The device refused or failed it.
#define TURNSTILE_FAILED -3

// An argument that is a number of 1, 2, 4 or 8 bytes.
#define TURNSTILE_VALUE 0

// An argument that is memory the kernel reads.
#define TURNSTILE_IN 1

// An argument that is memory the kernel writes.
#define TURNSTILE_OUT 2

// An argument that is memory the kernel reads and writes.
#define TURNSTILE_IN_OUT 3

// An open device. One thread at a time may use it.
typedef struct TurnstileDevice TurnstileDevice;

// What this tenant may do; 0 means not granted.
typedef struct TurnstileLimits {
  // ABI version of the device, major in the upper half.
  uint64_t version;
  // Device memory it may hold, in bytes.
  uint64_t memory_bytes;
  // Work queues.
  uint64_t queues;
  // Threads a block may have.
  uint64_t threads_per_block;
  // Blocks a launch may have.
  uint64_t blocks;
  // Longest run time of a launch, in nanoseconds.
  uint64_t launch_timeout_ns;
  // Largest program, in bytes.
  uint64_t program_bytes;
  // Multiprocessors of the device.
  uint64_t multiprocessors;
} TurnstileLimits;

// An argument of a kernel.
typedef struct TurnstileArgument {
  // `TURNSTILE_VALUE`, `_IN`, `_OUT` or `_IN_OUT`.
  uint32_t kind;
  // The number, or the memory.
  void *data;
  // Its length in bytes.
  size_t bytes;
} TurnstileArgument;

// A kernel to run.
typedef struct TurnstileLaunch {
  // The module, PTX; need not end with a NUL.
  const char *ptx;
  // Its length in bytes.
  size_t ptx_bytes;
  // Name of the kernel, NUL-terminated.
  const char *kernel;
  // Blocks of the grid.
  uint32_t blocks[3];
  // Threads of a block.
  uint16_t threads[3];
  // Dynamic shared memory, in bytes.
  uint32_t shared_bytes;
  // Longest wait for the kernel, in nanoseconds.
  uint64_t timeout_ns;
  // The kernel's arguments, in order.
  const struct TurnstileArgument *arguments;
  // How many.
  size_t argument_count;
} TurnstileLaunch;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// Why the last call of this thread failed: text that is valid until the next call.
const char *turnstile_error(void);

// Opens the device at a PCI address such as "0000:00:04.0", or with NULL the first there is.
// Returns NULL when there is none or it cannot be reached.
//
// # Safety
// `address` is NULL or a NUL-terminated string.
struct TurnstileDevice *turnstile_open(const char *address);

// Closes a device. NULL is none.
//
// # Safety
// `device` is NULL, or came from `turnstile_open` and was not closed yet.
void turnstile_close(struct TurnstileDevice *device);

// Asks what this tenant may do. Resets the device.
//
// # Safety
// `device` is NULL or an open device that no other thread uses now; `limits` is NULL or can be
// written.
int turnstile_limits(struct TurnstileDevice *device, struct TurnstileLimits *limits);

// Runs a kernel and waits for it: resets the device, copies memory arguments to it, launches, and
// copies those that the kernel may write back.
//
// # Safety
// `device` is NULL or an open device that no other thread uses now. `launch` is NULL or points to a
// launch whose pointers are valid for the lengths beside them; memory of `_OUT` and `_IN_OUT`
// arguments can be written and overlaps nothing else.
int turnstile_launch(struct TurnstileDevice *device, const struct TurnstileLaunch *launch);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* TURNSTILE_H */
