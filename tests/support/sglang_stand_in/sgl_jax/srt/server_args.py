import dataclasses


@dataclasses.dataclass
class ServerArgs:
    speculative_algorithm: str | None = None
    disaggregation_mode: str = "null"
    pd_disaggregation: str = ""
    enable_mixed_chunk: bool = False
    chunked_prefill_size: int = -1
    max_prefill_tokens: int = 16384
    page_size: int = 1
    dtype: str = "float32"
    kv_cache_dtype: str = "auto"
    dp_size: int = 1
