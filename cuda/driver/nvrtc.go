//go:build fmoecuda

package driver

/*
#include <dlfcn.h>
#include <stdlib.h>

static struct {
	int (*create)(void **, const char *, const char *, int, const char *const *, const char *const *);
	int (*destroy)(void **);
	int (*compile)(void *, int, const char *const *);
	int (*imageSize)(void *, size_t *);
	int (*image)(void *, char *);
	int (*logSize)(void *, size_t *);
	int (*log)(void *, char *);
} rtc;

static int loadCompiler(const char *file) {
	void *library = dlopen(file, RTLD_NOW | RTLD_LOCAL);
	if (library == NULL) return 0;
#define FIND(field, name) if ((*(void **)&rtc.field = dlsym(library, "nvrtc" name)) == NULL) return 0;
	FIND(create, "CreateProgram") FIND(destroy, "DestroyProgram") FIND(compile, "CompileProgram")
	FIND(imageSize, "GetCUBINSize") FIND(image, "GetCUBIN") FIND(logSize, "GetProgramLogSize") FIND(log, "GetProgramLog")
	return 1;
}

// compileSource gives machine code, or the compiler's words where it fails, in memory to be freed.
static int compileSource(const char *source, const char *target, char **text, size_t *size) {
	void *program = NULL;
	const char *options[] = {target, "--std=c++17", "-default-device"};
	int status = rtc.create(&program, source, "chain.cu", 0, NULL, NULL);
	*text = NULL;
	*size = 0;
	if (status) return status;
	status = rtc.compile(program, 3, options);
	int (*sizer)(void *, size_t *) = status ? rtc.logSize : rtc.imageSize;
	int (*getter)(void *, char *) = status ? rtc.log : rtc.image;
	int got = sizer(program, size);
	if (!got) {
		*text = malloc(*size + 1);
		got = getter(program, *text);
	}
	rtc.destroy(&program);
	return status ? status : got;
}
*/
import "C"

import (
	"errors"
	"fmt"
	"sync"
	"unsafe"
)

var compilerLibrary = sync.OnceValue(func() error {
	for _, f := range libraryFiles("libnvrtc.so.13", "libnvrtc.so.12") {
		name := C.CString(f)
		loaded := C.loadCompiler(name)
		C.free(unsafe.Pointer(name))
		if loaded != 0 {
			return nil
		}
	}
	return ErrNoCompiler
})

// ErrNoCompiler says that there is no NVRTC.
var ErrNoCompiler = errors.New("libnvrtc.so.13 or .12 is not found; install CUDA's libraries or name their folder in FMOE_CUDA_LIBRARIES")

// CompileSource compiles CUDA C++ for a target such as sm_90.
func CompileSource(source, target string) ([]byte, error) {
	if err := compilerLibrary(); err != nil {
		return nil, err
	}
	s, t := C.CString(source), C.CString("--gpu-architecture="+target)
	defer C.free(unsafe.Pointer(s))
	defer C.free(unsafe.Pointer(t))
	var text *C.char
	var size C.size_t
	status := C.compileSource(s, t, &text, &size)
	defer C.free(unsafe.Pointer(text))
	out := C.GoBytes(unsafe.Pointer(text), C.int(size))
	if status != 0 {
		return nil, fmt.Errorf("NVRTC error %d: %s", int(status), out)
	}
	return out, nil
}
