"""llama.cpp, as bench_cpu measures it if the package llama-cpp-python is there. Imports it when it is made."""

import contextlib
import os
import subprocess
import sys
import tempfile
from typing import Any

import numpy as np

from bench_cpu import gguf_copy
from bench_cpu.implementation import Dtype, Item
from bench_cpu.workloads import LABELS, Kind
from isoprefill.host.threads import usable_threads


class LlamaCppPeer:
    """One sequence for each item; all share the cells of the query's keys and values, and one batch computes all."""

    def __init__(self, dtype: Dtype, model: str) -> None:
        """Loads a copy of the model in that type.

        Raises:
            ValueError: the model is not a GGUF file.
        """
        import llama_cpp

        from isoprefill.models.config.config_gguf import config_from_gguf
        from isoprefill.models.files.gguf_header import read_header
        from isoprefill.models.sources.source import find_model

        found = find_model(model)
        if found.kind != "gguf":
            raise ValueError(f"llama.cpp needs a .gguf file, got {model}")
        header = read_header(found.path)
        self.config = config_from_gguf(header.metadata, header.tensors, None)
        self.batch_sizes: tuple[int, ...] = ()
        self.batch_size: int | None = None
        self._api: Any = llama_cpp
        self._silence = llama_cpp.llama_log_callback(lambda *_: None)  # kept: C calls it
        llama_cpp.llama_log_set(self._silence, None)
        self._dtype = dtype
        self._context: Any = None
        self._size = (0, 0)  # tokens and sequences that the context has room for
        with tempfile.TemporaryDirectory() as directory:
            path = os.path.join(directory, "copy.gguf")
            command = [sys.executable, gguf_copy.__file__, str(found.path), path, dtype]
            subprocess.run(command, check=True)
            self._model = self._api.llama_model_load_from_file(
                path.encode(), self._api.llama_model_default_params()
            )
        if not self._model:
            raise ValueError(f"llama.cpp cannot load {model}")

    def as_vectors(self, items: list[list[int]]) -> list[Item]:
        """Does as `Implementation` says: it takes tokens."""
        return [*items]

    def score(self, query: list[int], items: list[Item], kind: Kind) -> np.ndarray:
        """Returns log-probabilities: items by labels, or items.

        Raises:
            ValueError: there are more items than llama.cpp has sequences.
        """
        api = self._api
        tokens = [*query, *(token for item in items for token in item)]
        self._make_room(len(tokens), len(items))
        api.llama_memory_clear(api.llama_get_memory(self._context), False)
        positions = [*range(len(query))]
        sequences = [[*range(len(items))]] * len(query)
        for index, item in enumerate(items):
            positions += range(len(query), len(query) + len(item))
            sequences += [[index]] * len(item)
        ends = np.cumsum([len(item) for item in items]) + len(query)
        if kind == "labels":
            rows = ends - 1
            targets = np.tile(LABELS, (len(items), 1))
        else:  # every token is read at the row before it, an item's first at the query's last
            first = np.append(len(query), ends[:-1])
            rows = np.arange(len(query) - 1, len(tokens) - 1)
            rows[first - len(query)] = len(query) - 1
            targets = np.asarray(tokens[len(query) :])[:, None]
        logprobs = self._logprobs(tokens, positions, sequences, rows, targets)
        if kind == "labels":
            return logprobs
        return np.add.reduceat(logprobs[:, 0], first - len(query))

    def matmuls(self, rows: int, outer: int, inner: int) -> None:
        """Returns None: there is no product to call."""
        return None

    def compiles_nothing(self) -> contextlib.AbstractContextManager[Any]:
        """Does as `Implementation` says."""
        return contextlib.nullcontext()

    def _make_room(self, tokens: int, sequences: int) -> None:
        if tokens <= self._size[0] and sequences <= self._size[1]:
            return
        api = self._api
        if sequences > (most := api.llama_max_parallel_sequences()):
            raise ValueError(
                f"llama.cpp has {most} sequences, and the request has {sequences} items"
            )
        if self._context:
            api.llama_free(self._context)
        params = api.llama_context_default_params()
        params.n_ctx = params.n_batch = tokens
        params.n_seq_max = sequences
        params.n_threads = params.n_threads_batch = usable_threads()
        params.type_k = params.type_v = int(gguf_copy.TYPES[self._dtype])
        if self._dtype == "float32":  # its flash attention computes in float16
            params.flash_attn_type = api.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.kv_unified = True
        params.no_perf = True
        self._context = api.llama_init_from_model(self._model, params)
        if not self._context:
            raise ValueError(f"llama.cpp cannot make a context of {tokens} tokens")
        self._size = (tokens, sequences)

    def _logprobs(
        self,
        tokens: list[int],
        positions: list[int],
        sequences: list[list[int]],
        rows: np.ndarray,
        targets: np.ndarray,
    ) -> np.ndarray:
        """Returns the log-probabilities of tokens, [R, L], at R rows of one batch."""
        api = self._api
        batch = api.llama_batch_init(len(tokens), 0, self._size[1])
        batch.n_tokens = len(tokens)
        read = set(rows.tolist())
        for index, (token, position, of) in enumerate(
            zip(tokens, positions, sequences, strict=True)
        ):
            batch.token[index] = token
            batch.pos[index] = position
            batch.n_seq_id[index] = len(of)
            for place, sequence in enumerate(of):
                batch.seq_id[index][place] = sequence
            batch.logits[index] = index in read
        status = api.llama_decode(self._context, batch)
        api.llama_batch_free(batch)
        if status:
            raise RuntimeError(f"llama_decode returned {status}")
        found = sorted(read)
        shape = (len(found), self.config.vocab_size)
        logits = np.ctypeslib.as_array(api.llama_get_logits(self._context), shape)
        highest = logits.max(axis=1, keepdims=True)
        norms = highest + np.log(np.exp(logits - highest).sum(axis=1, keepdims=True))
        at = np.searchsorted(found, rows)
        return (np.take_along_axis(logits[at], targets, axis=1) - norms[at]).astype(np.float64)
