/* The Turnstile driver for programs in a Linux guest. Made by cbindgen from
 * guest-driver/linux/src/c.rs: change that, then run the crate's tests with TURNSTILE_BLESS=1. */

#ifndef TURNSTILE_H
#define TURNSTILE_H

#include <stddef.h>
#include <stdint.h>

#define TURNSTILE_OK 0
#define TURNSTILE_INVALID -1
#define TURNSTILE_NO_DEVICE -2
#define TURNSTILE_FAILED -3

#define TURNSTILE_VALUE 0
#define TURNSTILE_IN 1
#define TURNSTILE_OUT 2
#define TURNSTILE_IN_OUT 3

typedef struct TurnstileDevice TurnstileDevice;

typedef struct TurnstileLimits {
  uint64_t version;
  uint64_t memory_bytes;
  uint64_t queues;
  uint64_t threads_per_block;
  uint64_t blocks;
  uint64_t launch_timeout_ns;
  uint64_t program_bytes;
  uint64_t multiprocessors;
} TurnstileLimits;

typedef struct TurnstileArgument {
  uint32_t kind;
  void *data;
  size_t bytes;
} TurnstileArgument;

typedef struct TurnstileLaunch {
  const char *ptx;
  size_t ptx_bytes;
  const char *kernel;
  uint32_t blocks[3];
  uint16_t threads[3];
  uint32_t shared_bytes;
  uint64_t timeout_ns;
  const struct TurnstileArgument *arguments;
  size_t argument_count;
} TurnstileLaunch;

#ifdef __cplusplus
extern "C" {
#endif

const char *turnstile_error(void);
struct TurnstileDevice *turnstile_open(const char *address);
void turnstile_close(struct TurnstileDevice *device);
int turnstile_limits(struct TurnstileDevice *device, struct TurnstileLimits *limits);
int turnstile_launch(struct TurnstileDevice *device, const struct TurnstileLaunch *launch);

#ifdef __cplusplus
}
#endif

#endif /* TURNSTILE_H */
