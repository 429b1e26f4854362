"""Makes what the CUDA device needs beside Go code: kernels compiled by NVRTC, and a libcuda to link with.

The compiler and headers are those of the pinned packages in requirements.txt, or of a toolkit in CUDA_HOME. NVRTC
is nvcc's compiler for device code as a library; PyPI has nvcc itself for CUDA 13 only, whose kernels drivers of CUDA 12 refuse.
"""

import argparse
import ctypes
import os
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def toolchain():
    """Returns NVRTC's library and the folders of headers."""
    home = os.environ.get("CUDA_HOME")
    if home:
        root = Path(home)
        libraries = [f for folder in ("lib64", "lib", "targets/x86_64-linux/lib") for f in sorted((root / folder).glob("libnvrtc.so*"))]
        headers = [root / "include", root / "include/cccl"]
    else:
        root = Path(sys.prefix)
        libraries = sorted(root.glob("lib/python3*/site-packages/nvidia/cuda_nvrtc/lib/libnvrtc.so*"))
        headers = sorted(root.glob("lib/python3*/site-packages/nvidia/*/include"))
    if not libraries:
        sys.exit(f"there is no libnvrtc below {root}; set CUDA_HOME to a CUDA toolkit, or run make cuda without it")
    return ctypes.CDLL(str(libraries[0])), [h for h in headers if h.is_dir()]


class Compiler:
    def __init__(self, library, headers):
        self.nvrtc, self.headers = library, headers
        library.nvrtcGetErrorString.restype = ctypes.c_char_p

    def check(self, code, log=""):
        if code:
            sys.exit(log + self.nvrtc.nvrtcGetErrorString(code).decode())

    def text(self, program, what):
        """Returns the compiler's log, or a result: what is Log, CUBIN or PTX in the names of NVRTC's functions."""
        size = ctypes.c_size_t()
        sizer = getattr(self.nvrtc, f"nvrtcGet{'Program' if what == 'Log' else ''}{what}Size")
        getter = getattr(self.nvrtc, f"nvrtcGet{'Program' if what == 'Log' else ''}{what}")
        self.check(sizer(program, ctypes.byref(size)))
        buffer = ctypes.create_string_buffer(size.value)
        self.check(getter(program, buffer))
        return buffer.raw

    def compile(self, source, target, what, report):
        program = ctypes.c_void_p()
        self.check(self.nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.read_bytes(), source.name.encode(), 0, None, None))
        options = [f"--gpu-architecture={target}", "--std=c++17", "-default-device", "-diag-suppress=550,177", f"-I{source.parent}", *(f"-I{h}" for h in self.headers)]
        if report:
            options.append("--ptxas-options=-v")
        array = (ctypes.c_char_p * len(options))(*(o.encode() for o in options))
        code = self.nvrtc.nvrtcCompileProgram(program, len(options), array)
        log = self.text(program, "Log").rstrip(b"\0").decode()
        self.check(code, log)
        if report:
            print(log)
        image = self.text(program, what)
        self.check(self.nvrtc.nvrtcDestroyProgram(ctypes.byref(program)))
        return image


def write(path, data):
    """Writes a file unless it has that content already, so that Go's cache holds."""
    if not path.exists() or path.read_bytes() != data:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def libcuda(out, headers):
    """Builds libcuda.a, whose functions are all that cuda.h declares."""
    include = [f"-I{h}" for h in [HERE / "compat", *headers]]
    declared = subprocess.run(["gcc", "-E", "-P", *include, "-x", "c", "-"], input="#include <cuda.h>\n", text=True, capture_output=True, check=True).stdout
    names = sorted(set(re.findall(r"\bCUresult\s+(cu[A-Z]\w*)\s*\(", declared)) - {"cuInit"})
    write(out / "functions.h", "".join(f"FUNCTION({n})\n" for n in names).encode())
    subprocess.run(["gcc", "-O2", "-fPIC", "-c", *include, f"-I{out}", str(HERE / "libcuda/libcuda.c"), "-o", str(out / "libcuda.o")], check=True)
    (out / "libcuda.a").unlink(missing_ok=True)
    subprocess.run(["ar", "rcs", str(out / "libcuda.a"), str(out / "libcuda.o")], check=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", required=True, type=Path, help="folder for libcuda.a and env, which runs commands in the environment that go build needs")
    parser.add_argument("--targets", default="sm_80,sm_90a,compute_80", help="what kernels are compiled for; compute_N gives PTX")
    parser.add_argument("--report", action="store_true", help="print registers, shared memory and spills of each kernel")
    o = parser.parse_args()
    library, headers = toolchain()
    o.out.mkdir(parents=True, exist_ok=True)
    libcuda(o.out, headers)
    compiler = Compiler(library, headers)
    images = HERE / "kernels/images"
    made = set()
    for target in o.targets.split(","):
        what, ending = ("PTX", "ptx") if target.startswith("compute_") else ("CUBIN", "cubin")
        for source in sorted((HERE / "kernels").glob("*.cu")):
            path = images / f"{source.stem}.{target}.{ending}"
            newest = max(f.stat().st_mtime for f in [source, Path(__file__), *(HERE / "kernels").glob("*.cuh")])
            if o.report or not path.exists() or path.stat().st_mtime < newest:
                image = compiler.compile(source, target, what, o.report)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(image)
            made.add(path)
    for path in set(images.glob("*.*")) - made:
        path.unlink()
    includes = " ".join(f"-I{h}" for h in [HERE / "compat", *headers])
    environment = f'export CGO_ENABLED=1 CGO_CFLAGS="-O2 {includes}" CGO_LDFLAGS="-L{o.out.resolve()}"'
    write(o.out / "env", f'#!/bin/sh\n# Runs a command, such as go build, with what cgo needs.\n{environment}\nexec "$@"\n'.encode())
    (o.out / "env").chmod(0o755)


if __name__ == "__main__":
    main()
