"""Settings of x264 under which equal pictures become equal bytes, on every machine."""

import functools
from pathlib import Path

# With AVX-512 the mb-tree of x264 (build 165) depends on memory that nobody wrote; every such processor has these sets.
_WITHOUT_AVX512 = "asm=MMX2,SSE2Fast,SSSE3,SSE4.2,AVX,FMA3,AVX2"


def repeatable(*params: str) -> str:
    """``x264-params`` with further ones, each ``name=value``."""
    return ":".join([*params, "threads=1", *([_WITHOUT_AVX512] if _has_avx512() else [])])


@functools.cache
def _has_avx512() -> bool:
    return "avx512" in Path("/proc/cpuinfo").read_text()
