"""The attention back end: ours for passes with multi-item requests, sglang-jax's own for all other passes."""

import logging
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from sgl_jax.srt.layers.attention.base_attn_backend import AttentionBackend
from sgl_jax.srt.utils.jax_utils import device_array

from isoprefill_pallas import Heads, KernelSchedule
from isoprefill_pallas.paged import MAX_PAGE_SIZE, paged_attention, write_columns
from isoprefill_sglang_jax.batch import MultiItemBatch
from isoprefill_sglang_jax.metadata import MultiItemMetadata, PagedColumns, paged_columns
from isoprefill_sglang_jax.xla import xla_paged_attention

logger = logging.getLogger(__name__)
Attention = Literal["auto", "pallas", "xla"]


class MultiItemAttention(AttentionBackend):
    """Wraps the back end that sglang-jax chose.

    In a pass without multi-item requests every call goes on to that back end unchanged.
    """

    def __init__(
        self, own: AttentionBackend, *, page_size: int, mesh: Mesh, kernel_heads: Heads | None
    ) -> None:
        """Wraps a back end.

        Args:
            own: sglang-jax's back end.
            page_size: tokens of a page of the KV cache.
            mesh: with the axes "data" and "tensor"; "data" is 1 if there are `kernel_heads`.
            kernel_heads: the heads of one device, for the TPU kernel; if None, XLA computes the attention.
        """
        self.own = own
        self.page_size = page_size
        self.mesh = mesh
        self.kernel_heads = kernel_heads
        self._forward_metadata = nnx.data(MultiItemMetadata())

    def get_forward_metadata(self, batch: Any) -> MultiItemMetadata:
        """Makes the metadata of a pass from its ModelWorkerBatch, and puts them on the devices."""
        own = self.own.get_forward_metadata(batch)
        items: MultiItemBatch | None = getattr(batch, "isoprefill_items", None)
        if items is None:
            return MultiItemMetadata(own)
        columns = paged_columns(batch, items, self.page_size)
        schedule = None
        if self.kernel_heads is not None:
            intervals = np.asarray(columns.row_intervals)
            num_columns = columns.page_indices.size * self.page_size
            schedule = device_array(
                KernelSchedule.of_intervals(intervals, num_columns, self.kernel_heads),
                sharding=NamedSharding(self.mesh, P()),
            )
        return MultiItemMetadata(own, columns.to_devices(self.mesh), schedule)

    @property
    def forward_metadata(self) -> MultiItemMetadata:
        """The metadata of the next pass; sglang-jax assigns it before each pass."""
        return self._forward_metadata

    @forward_metadata.setter
    def forward_metadata(self, value: MultiItemMetadata) -> None:
        self._forward_metadata = value
        self.own.forward_metadata = value.own

    def __call__(
        self,
        q: jax.Array,
        k: jax.Array,
        v: jax.Array,
        layer: Any,
        forward_batch: Any,
        token_to_kv_pool: Any,
        **kwargs: Any,
    ) -> tuple[jax.Array, jax.Array]:
        """Computes the attention of one layer.

        Args:
            q: `[T, Hq, D]` or `[T, Hq * D]`; k and v likewise with Hkv heads.
            layer: sglang-jax's RadixAttention.
            forward_batch: its ForwardBatch.
            token_to_kv_pool: its KV cache.

        Returns:
            The output `[T, Hq * D]` and the layer's fused cache with the new keys and values in it.
        """
        metadata = self._forward_metadata
        if metadata.columns is None:
            return self.own(q, k, v, layer, forward_batch, token_to_kv_pool, **kwargs)
        _check_layer(layer, kwargs)
        head_dim = layer.head_dim
        scale = head_dim**-0.5 if layer.scaling is None else layer.scaling

        def attend(
            q: jax.Array,
            k: jax.Array,
            v: jax.Array,
            kv_pages: jax.Array,
            slots: jax.Array,
            columns: PagedColumns,
            schedule: KernelSchedule | None,
        ) -> tuple[jax.Array, jax.Array]:
            kv_pages = write_columns(kv_pages, k, v, slots)
            options = {"scale": scale, "soft_cap": layer.logit_cap}
            if schedule is None:
                out = xla_paged_attention(q, kv_pages, columns, **options)
            else:
                pages = (columns.page_indices, columns.page_lens)
                out, _ = paged_attention(q, kv_pages, *pages, schedule, **options)
            return out.reshape(out.shape[0], -1), kv_pages

        heads, rows = P("data", "tensor"), P("data")
        cache = P("data", None, "tensor", None, None)
        columns = PagedColumns(rows, rows, P(None, "data"))  # type: ignore[arg-type]
        return jax.shard_map(
            attend,
            mesh=self.mesh,
            in_specs=(heads, heads, heads, cache, rows, columns, P()),
            out_specs=(heads, cache),
            check_vma=False,
        )(
            q.reshape(q.shape[0], -1, head_dim),
            k.reshape(k.shape[0], -1, head_dim),
            v.reshape(v.shape[0], -1, head_dim),
            token_to_kv_pool.get_fused_kv_buffer(layer.layer_id),
            forward_batch.out_cache_loc,
            metadata.columns,
            metadata.schedule,
        )

    def get_max_running_reqests(self, max_context_len: int, page_size: int) -> int:
        """Returns what sglang-jax's back end returns; the name is spelled as there."""
        return self.own.get_max_running_reqests(max_context_len, page_size)


def kernel_heads(runner: Any, attention: Attention) -> Heads | None:
    """Returns the heads of one device if the TPU kernel is to compute the attention of a ModelRunner; None for XLA.

    Raises:
        ValueError: `attention` is "pallas", and the kernel does not take this model; names the value.
    """
    if attention == "xla" or (attention == "auto" and jax.default_backend() != "tpu"):
        return None
    shards = runner.mesh.shape["tensor"]
    dtype = jnp.dtype(runner.model_config.dtype)
    try:
        if runner.mesh.shape["data"] != 1:
            raise ValueError("the kernel's schedule is for one data-parallel rank")
        page_size = runner.server_args.page_size
        if page_size > MAX_PAGE_SIZE:
            raise ValueError(f"page_size must be at most {MAX_PAGE_SIZE}, got {page_size}")
        cache = runner.server_args.kv_cache_dtype
        if cache != "auto" and {"bf16": "bfloat16"}.get(cache, cache) != dtype.name:
            raise ValueError(f"the KV cache must have the model's dtype {dtype}, got {cache}")
        return Heads(
            runner.num_attn_heads // shards,
            runner.num_kv_heads // shards,
            runner.model_config.head_dim,
            dtype.name,
        )
    except ValueError as error:
        if attention == "pallas":
            raise
        logger.warning("XLA, not the TPU kernel, computes the attention of items: %s", error)
        return None


def unsupported_layer(layer: Any) -> str | None:
    """Says what our attention lacks for a RadixAttention; returns None if nothing."""
    attn_type = getattr(layer.attn_type, "value", layer.attn_type)
    if attn_type != "decoder":
        return f"attention type {attn_type!r}"
    if layer.sliding_window_size is not None and layer.sliding_window_size > 0:
        return f"a sliding window of {layer.sliding_window_size}"
    if layer.xai_temperature_len > 0:
        return f"xai_temperature_len {layer.xai_temperature_len}"
    if layer.v_head_dim != layer.head_dim:
        return f"values of {layer.v_head_dim} beside keys of {layer.head_dim}"
    return None


def _check_layer(layer: Any, kwargs: dict[str, Any]) -> None:
    """Refuses what only the call shows; requests.py has checked the rest when the request came."""
    lacking = unsupported_layer(layer)
    given = sorted(name for name, value in kwargs.items() if value is not None)
    if lacking or given:
        raise NotImplementedError(
            f"layer {layer.layer_id} has {lacking or f'the arguments {given}'}, which multi-item attention does not "
            "support"
        )
