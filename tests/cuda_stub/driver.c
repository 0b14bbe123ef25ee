/* A CUDA driver that does nothing, for machines without a GPU: the host's side of the CUDA backend starts, compiles, launches and reads as ever.
 * It computes no number. What it is asked for is counted, and it can fail as a card does.
 *
 *   CUDA_STUB_MEMORY=BYTES         the card's memory (80 GiB); an allocation beyond it fails
 *   CUDA_STUB_LARGEST=BYTES        an allocation of more fails
 *   CUDA_STUB_FAIL_ALLOCATION=N    the N-th allocation fails
 *   CUDA_STUB_LOST=N               the card is lost at the N-th launch
 *
 * Numbers that come to the host are made up: 2.0 after a handful of launches, which is what a device that starts is asked for (1 + 1), else
 * words of 1, which is a token and, as a float, a tiny finite number. */
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

enum { OK = 0, OUT_OF_MEMORY = 2, LAUNCH_FAILED = 719 };
typedef int Result;

/* Counters, which a program that has loaded this library finds by name. */
_Atomic uint64_t cuda_stub_launches, cuda_stub_allocations, cuda_stub_bytes, cuda_stub_writes, cuda_stub_reads;
/* The size of each of the last reads, the n-th at n % READS. */
enum { READS = 4096 };
_Atomic uint64_t cuda_stub_read_bytes[READS];

static uint64_t setting(const char *name, uint64_t absent) {
    const char *text = getenv(name);
    return text && *text ? strtoull(text, NULL, 10) : absent;
}

static Result state(void) {
    return cuda_stub_launches < setting("CUDA_STUB_LOST", UINT64_MAX) ? OK : LAUNCH_FAILED;
}

/* The device: a Hopper without tensor maps of its own. */
static uint64_t memory(void) { return setting("CUDA_STUB_MEMORY", 80ull << 30); }
Result cuInit(unsigned flags) { return OK; }
Result cuDriverGetVersion(int *version) { *version = 13000; return OK; }
Result cuDeviceGetCount(int *count) { *count = 1; return OK; }
Result cuDeviceGet(int *device, int index) { *device = index; return index == 0 ? OK : 101; }
Result cuDeviceGetName(char *name, int length, int device) {
    const char *text = "CUDA stub";
    int i = 0;
    for (; i + 1 < length && text[i]; i++) name[i] = text[i];
    if (length > 0) name[i] = 0;
    return OK;
}
Result cuDeviceTotalMem_v2(size_t *bytes, int device) { *bytes = memory(); return OK; }
Result cuMemGetInfo_v2(size_t *unused, size_t *total) {
    *total = memory();
    *unused = *total - cuda_stub_bytes;
    return OK;
}
Result cuDeviceGetAttribute(int *value, int attribute, int device) {
    switch (attribute) {
    case 1: case 2: case 3: *value = 1024; break; /* threads of a block */
    case 4: *value = 64; break;
    case 5: *value = INT32_MAX; break; /* blocks of a grid */
    case 6: case 7: *value = 65535; break;
    case 10: *value = 32; break; /* threads of a warp */
    case 16: *value = 132; break; /* multiprocessors */
    case 75: *value = 9; break; /* compute capability 9.0 */
    case 76: *value = 0; break;
    case 97: *value = 232448; break; /* shared memory of a block */
    default: *value = 1;
    }
    return OK;
}

/* Contexts, streams, events, modules: handles that stand for nothing. */
static char handle;
static _Atomic uint64_t launches_before_wait;
Result cuDevicePrimaryCtxRetain(void **context, int device) { *context = &handle; return OK; }
Result cuDevicePrimaryCtxRelease_v2(int device) { return OK; }
Result cuCtxSetCurrent(void *context) { return state(); }
Result cuCtxGetCurrent(void **context) { *context = &handle; return OK; }
Result cuCtxSynchronize(void) { return state(); }
Result cuStreamCreate(void **stream, unsigned flags) { *stream = &handle; return OK; }
Result cuStreamCreateWithPriority(void **stream, unsigned flags, int priority) { *stream = &handle; return OK; }
Result cuStreamSynchronize(void *stream) { return state(); }
Result cuStreamWaitEvent(void *stream, void *event, unsigned flags) { return state(); }
Result cuEventCreate(void **event, unsigned flags) { *event = &handle; return OK; }
Result cuEventRecord(void *event, void *stream) { return state(); }
Result cuEventSynchronize(void *event) {
    launches_before_wait = cuda_stub_launches;
    return state();
}
Result cuEventDestroy_v2(void *event) { return OK; }
Result cuModuleLoadData(void **module, const void *image) { *module = &handle; return OK; }
Result cuModuleGetFunction(void **function, void *module, const char *name) { *function = &handle; return OK; }
Result cuFuncSetAttribute(void *function, int attribute, int value) { return OK; }
Result cuTensorMapEncodeTiled(void) { return OK; }

/* Memory. Sizes are kept in a table by address, which is never used again; addresses stand for no memory. */
enum { BLOCKS = 1 << 20 };
static _Atomic uint64_t sizes[BLOCKS];
static _Atomic uint64_t blocks;
static const uint64_t BASE = 0x7000000000000000, STEP = 1ull << 40;
static _Thread_local int refused;

static Result allocate(uint64_t *address, size_t bytes) {
    uint64_t n = ++cuda_stub_allocations;
    if (n == setting("CUDA_STUB_FAIL_ALLOCATION", 0) || bytes > setting("CUDA_STUB_LARGEST", UINT64_MAX) ||
        cuda_stub_bytes + bytes > memory())
        return OUT_OF_MEMORY;
    uint64_t block = blocks++ % BLOCKS;
    sizes[block] = bytes;
    cuda_stub_bytes += bytes;
    *address = BASE + block * STEP;
    return OK;
}
Result cuMemAllocAsync(uint64_t *address, size_t bytes, void *stream) {
    Result result = state();
    if (result == OK) result = allocate(address, bytes);
    refused = result;
    return result;
}
/* What was refused is asked for again in this way, as the same allocation. */
Result cuMemAlloc_v2(uint64_t *address, size_t bytes) {
    Result result = refused ? refused : allocate(address, bytes);
    refused = 0;
    return result;
}
Result cuMemFree_v2(uint64_t address) {
    cuda_stub_bytes -= atomic_exchange(&sizes[(address - BASE) / STEP], 0);
    return OK;
}
Result cuMemFreeAsync(uint64_t address, void *stream) { return cuMemFree_v2(address); }
Result cuMemAllocHost_v2(void **host, size_t bytes) { *host = malloc(bytes); return *host ? OK : OUT_OF_MEMORY; }
Result cuMemHostAlloc(void **host, size_t bytes, unsigned flags) { return cuMemAllocHost_v2(host, bytes); }
Result cuMemFreeHost(void *host) { free(host); return OK; }

/* Launches. */
Result cuLaunchKernel(void *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared,
                      void *stream, void **parameters, void **extra) {
    cuda_stub_launches++;
    return state();
}

/* Copies. */
static void made_up(char *to, size_t bytes, size_t rows, size_t pitch) {
    uint64_t since = cuda_stub_launches - atomic_exchange(&launches_before_wait, cuda_stub_launches);
    float two = 2.0f;
    uint32_t word = 1;
    const char *from = since >= 1 && since <= 3 ? (const char *)&two : (const char *)&word;
    for (size_t row = 0; row < rows; row++)
        for (size_t i = 0; i < bytes; i++) to[row * pitch + i] = from[i % 4];
    uint64_t n = cuda_stub_reads++;
    cuda_stub_read_bytes[n % READS] = bytes * rows;
}
Result cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t bytes, void *stream) {
    made_up(to, bytes, 1, bytes);
    return state();
}
Result cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t bytes, void *stream) {
    cuda_stub_writes++;
    return state();
}
Result cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t bytes, void *stream) { return state(); }
Result cuMemsetD8Async(uint64_t to, unsigned char byte, size_t bytes, void *stream) { return state(); }
/* CUDA_MEMCPY2D */
struct copy {
    size_t from_x, from_y;
    int from_type;
    const void *from_host;
    uint64_t from_device;
    void *from_array;
    size_t from_pitch, to_x, to_y;
    int to_type;
    void *to_host;
    uint64_t to_device;
    void *to_array;
    size_t to_pitch, width, height;
};
Result cuMemcpy2DAsync_v2(const struct copy *copy, void *stream) {
    if (copy->to_type == 1) /* the host */
        made_up(copy->to_host, copy->width, copy->height, copy->to_pitch);
    else
        cuda_stub_writes++;
    return state();
}

Result cuGetErrorName(int error, const char **name) {
    *name = error == OUT_OF_MEMORY   ? "CUDA_ERROR_OUT_OF_MEMORY"
            : error == LAUNCH_FAILED ? "CUDA_ERROR_LAUNCH_FAILED"
            : error == 101           ? "CUDA_ERROR_INVALID_DEVICE"
                                     : "CUDA_ERROR_UNKNOWN";
    return OK;
}
Result cuGetErrorString(int error, const char **text) {
    *text = error == OUT_OF_MEMORY   ? "out of memory"
            : error == LAUNCH_FAILED ? "unspecified launch failure"
            : error == 101           ? "invalid device ordinal"
                                     : "unknown error";
    return OK;
}
