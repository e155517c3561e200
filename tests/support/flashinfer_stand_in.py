"""FlashInfer's paged wrapper on a CPU, for the tests: its multi-item rule as its documentation states it.

It takes what the real one takes and nothing else, so a wrong parameter is an error or a wrong score here too.
"""

import torch


class BatchPrefillWithPagedKVCacheWrapper:
    """One request, one page."""

    def __init__(self, workspace: torch.Tensor, kv_layout: str) -> None:
        assert workspace.dtype == torch.uint8
        assert kv_layout == "NHD"

    def plan(
        self,
        qo_indptr: torch.Tensor,
        paged_kv_indptr: torch.Tensor,
        paged_kv_indices: torch.Tensor,
        paged_kv_last_page_len: torch.Tensor,
        num_qo_heads: int,
        num_kv_heads: int,
        head_dim_qk: int,
        page_size: int,
        *,
        causal: bool,
        q_data_type: torch.dtype,
        prefix_len_ptr: torch.Tensor,
        token_pos_in_items_ptr: torch.Tensor,
        token_pos_in_items_len: int,
        max_item_len_ptr: torch.Tensor,
    ) -> None:
        assert [x.tolist() for x in (paged_kv_indptr, paged_kv_indices)] == [[0, 1], [0]]
        assert [*qo_indptr.tolist(), *paged_kv_last_page_len.tolist()] == [0, page_size, page_size]
        assert prefix_len_ptr.dtype == torch.uint32
        assert token_pos_in_items_ptr.dtype == max_item_len_ptr.dtype == torch.uint16
        assert causal
        self._shape = (page_size, num_qo_heads, num_kv_heads, head_dim_qk, q_data_type)
        prefix_len = int(prefix_len_ptr[0])
        token_pos = token_pos_in_items_ptr.to(torch.int64)
        assert token_pos.numel() == token_pos_in_items_len == page_size - prefix_len
        assert int(max_item_len_ptr[0]) == token_pos.max()
        rows = torch.arange(page_size)[:, None]
        columns = rows.T
        token_pos = torch.cat([rows[:prefix_len, 0] + 1, token_pos])[:, None]
        own = columns > rows - token_pos
        self._mask = (columns <= rows) & ((columns < prefix_len) | own)

    def run(self, q: torch.Tensor, kv: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """q [T, Hq, D]; k and v [1 page, T, Hkv, D]."""
        length, heads, kv_heads, dim, dtype = self._shape
        k, v = kv
        assert q.shape == (length, heads, dim)
        assert k.shape == v.shape == (1, length, kv_heads, dim)
        assert q.dtype == k.dtype == v.dtype == dtype
        out = torch.nn.functional.scaled_dot_product_attention(
            q.transpose(0, 1)[None],
            k.transpose(1, 2),
            v.transpose(1, 2),
            attn_mask=self._mask,
            enable_gqa=True,
        )
        return out[0].transpose(0, 1)
