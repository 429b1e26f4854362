/* A libcuda to link with, on machines that have none: each function of the driver API jumps to that of libcuda.so.1,
 * which is opened when the program starts. Where it is missing, functions return CUDA_ERROR_NOT_INITIALIZED, but for
 * cuInit: gorgonia.org/cu ends the program where that fails. What cuInit really gave is in fmoe_cuda_status.
 *
 * functions.h, which build.py makes from cuda.h, has FUNCTION(name) for each function but cuInit. */
#include <cuda.h>
#include <dlfcn.h>
#include <stddef.h>

int fmoe_cuda_status = CUDA_ERROR_NOT_INITIALIZED;

static CUresult missing(void) { return CUDA_ERROR_NOT_INITIALIZED; }

#if defined(__x86_64__)
#define JUMP(name) "jmp *fmoe_" #name "(%rip)\n"
#elif defined(__aarch64__)
#define JUMP(name) "adrp x16, fmoe_" #name "\nldr x16, [x16, :lo12:fmoe_" #name "]\nbr x16\n"
#endif

#define FUNCTION(name) \
    __attribute__((visibility("hidden"))) void *fmoe_##name = (void *)missing; \
    __asm__(".text\n.globl " #name "\n.hidden " #name "\n.type " #name ", %function\n" #name ":\n" JUMP(name));
#include "functions.h"
#undef FUNCTION

static const struct { const char *name; void **function; } functions[] = {
#define FUNCTION(name) {#name, &fmoe_##name},
#include "functions.h"
};

__attribute__((visibility("hidden"))) CUresult cuInit(unsigned int flags) { return CUDA_SUCCESS; }

__attribute__((constructor)) static void load(void) {
    void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) return;
    for (size_t i = 0; i < sizeof functions / sizeof *functions; i++) {
        void *f = dlsym(library, functions[i].name);
        if (f != NULL) *functions[i].function = f;
    }
    CUresult (*init)(unsigned int) = (CUresult (*)(unsigned int))dlsym(library, "cuInit");
    if (init != NULL) fmoe_cuda_status = init(0);
}
