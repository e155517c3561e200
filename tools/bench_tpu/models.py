"""The models whose scoring steps bench_tpu counts and measures: shapes only, weights are random."""

from isoprefill.models.config.config import ModelConfig

MODELS = {
    "smollm2-135m": ModelConfig(
        "llama", 49152, 576, 1536, 30, 9, 3, 64, 1e-5, 1e5, 8192, tied_head=True
    ),
    "qwen3-0.6b": ModelConfig(
        "qwen3", 151936, 1024, 3072, 28, 16, 8, 128, 1e-6, 1e6, 40960, tied_head=True, qk_norm=True
    ),
    "qwen3-4b": ModelConfig(
        "qwen3", 151936, 2560, 9728, 36, 32, 8, 128, 1e-6, 5e6, 40960, tied_head=True, qk_norm=True
    ),
    "qwen3-8b": ModelConfig(
        "qwen3", 151936, 4096, 12288, 36, 32, 8, 128, 1e-6, 1e6, 40960, qk_norm=True
    ),
    "qwen3-32b": ModelConfig(
        "qwen3", 151936, 5120, 25600, 64, 64, 8, 128, 1e-6, 1e6, 40960, qk_norm=True
    ),
    "llama-3-8b": ModelConfig("llama", 128256, 4096, 14336, 32, 32, 8, 128, 1e-5, 5e5, 8192),
}
