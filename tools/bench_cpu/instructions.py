"""Restricts the instructions that a process may use, through its environment: ours and PyTorch's alike."""

import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Literal

from isoprefill.models.sources.pinned import cache_directory

Instructions = Literal["amx", "avx512_bf16", "avx512", "avx2", "portable"]

OURS = "ISOPREFILL_INSTRUCTIONS"
# oneDNN multiplies bfloat16, and MKL float32, which heeds its variable on Intel's processors only; ATen does the rest.
# What torch.compile makes keeps to ATen's, but with AVX-512 its products would use AMX too: there it makes none.
PEERS = (
    "ONEDNN_MAX_CPU_ISA",
    "MKL_ENABLE_INSTRUCTIONS",
    "ATEN_CPU_CAPABILITY",
    "TORCHINDUCTOR_CPP_MARCH",
    "TORCHINDUCTOR_MAX_AUTOTUNE_GEMM_BACKENDS",
)
_HIGHEST: Mapping[Instructions, tuple[str, str, str, str, str]] = {
    "amx": ("AVX512_CORE_AMX", "AVX512_E4", "avx512", "native", "ATEN,CPP"),
    "avx512_bf16": ("AVX512_CORE_BF16", "AVX512_E3", "avx512", "x86-64-v4", "ATEN"),
    "avx512": ("AVX512_CORE", "AVX512", "avx512", "x86-64-v4", "ATEN"),
    "avx2": ("AVX2", "AVX2", "avx2", "x86-64-v3", "ATEN,CPP"),
    "portable": ("SSE41", "SSE4_2", "default", "x86-64", "ATEN,CPP"),
}
INSTRUCTIONS: tuple[Instructions, ...] = tuple(_HIGHEST)


def environment(highest: Instructions | None) -> dict[str, str]:
    """Returns the variables that let a process use these instructions and lower ones; none for None."""
    if highest is None:
        return {}
    # Else torch.compile would find what it made, and chose by time, with other instructions.
    cache = cache_directory() / "bench_cpu" / highest
    peers = dict(zip(PEERS, _HIGHEST[highest], strict=True))
    return {OURS: highest, "TORCHINDUCTOR_CACHE_DIR": str(cache), **peers}


def in_use(highest: Instructions | None) -> str:
    """Says which instructions run: ours as the extension tells in such a process, PyTorch's as they are set."""
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)} | environment(highest)
    ask = "import isoprefill_csrc; print(isoprefill_csrc.best_instructions())"
    done = subprocess.run([sys.executable, "-c", ask], env=env, capture_output=True, text=True)
    peers = [f"{name}={env[name]}" for name in PEERS if name in env]
    ours = done.stdout.strip() or "unknown"
    return f"instructions: ours {ours}; PyTorch {', '.join(peers) or 'all it finds'}"
