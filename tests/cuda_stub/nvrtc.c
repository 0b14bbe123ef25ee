/* A compiler of CUDA that takes every source for a program; see driver.c. From the N-th on it finds a mistake in each (CUDA_STUB_FAIL_COMPILE=N).
 */
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { OK = 0, COMPILATION = 6 };
typedef int Result;

_Atomic uint64_t cuda_stub_programs;
static const char LOG[] = "default_program(1): error: the stub was told to find one\n";
static char program;

Result nvrtcVersion(int *major, int *minor) { *major = 13; *minor = 0; return OK; }
Result nvrtcCreateProgram(void **created, const char *source, const char *name, int headers, void *texts, void *names) {
    *created = &program;
    return OK;
}
Result nvrtcDestroyProgram(void **created) { return OK; }
Result nvrtcCompileProgram(void *created, int count, const char *const *options) {
    const char *from = getenv("CUDA_STUB_FAIL_COMPILE");
    return ++cuda_stub_programs >= (from ? strtoull(from, NULL, 10) : UINT64_MAX) ? COMPILATION : OK;
}
Result nvrtcGetProgramLogSize(void *created, size_t *size) { *size = sizeof LOG; return OK; }
Result nvrtcGetProgramLog(void *created, char *log) { memcpy(log, LOG, sizeof LOG); return OK; }
Result nvrtcGetPTXSize(void *created, size_t *size) { *size = 1; return OK; }
Result nvrtcGetPTX(void *created, char *ptx) { *ptx = 0; return OK; }
const char *nvrtcGetErrorString(Result result) { return result ? "NVRTC_ERROR_COMPILATION" : "NVRTC_SUCCESS"; }
