"""NVRTC, which compiles for any GPU without one; conftest.py's fixture `nvrtc` is the library."""

import ctypes


def compiled(nvrtc, source, options):
    """Compile a program; returns (error or "", log)."""
    program, words = ctypes.c_void_p(), [o.encode() for o in options]
    nvrtc.nvrtcGetErrorString.restype = ctypes.c_char_p
    text = source.encode("ascii")  # CuPy writes it to a file in the system's encoding, on Windows not UTF-8
    assert nvrtc.nvrtcCreateProgram(ctypes.byref(program), text, b"formulas.cu", 0, None, None) == 0
    result = nvrtc.nvrtcCompileProgram(program, len(words), (ctypes.c_char_p * len(words))(*words))
    size = ctypes.c_size_t()
    nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetProgramLog(program, log)
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    return nvrtc.nvrtcGetErrorString(result).decode() if result else "", log.value.decode()


def supported(nvrtc):
    """The architectures that this NVRTC compiles for, as numbers such as 90."""
    n = ctypes.c_int()
    nvrtc.nvrtcGetNumSupportedArchs(ctypes.byref(n))
    found = (ctypes.c_int * n.value)()
    nvrtc.nvrtcGetSupportedArchs(found)
    return list(found)
