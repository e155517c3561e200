"""Servers that the auditor is tried on, and an audit of one over loopback."""

import contextlib
import dataclasses
import hashlib
import itertools
import json
from pathlib import Path

import torch
from fastapi import FastAPI, Response

import small_models
from huggingface_directory import save_directory
from isoprefill.audit import AuditSettings, ScoreClient, run_audit
from isoprefill.models.sources.source import load_tokenizer
from isoprefill_torch import TorchScorer, load_model
from isoprefill_torch.server import Backend, create_app
from local_server import serving

SETTINGS = AuditSettings(max_items=100, max_words=200, repeats=3)
# For what is noisy, or compiles for every length.
SHORT = AuditSettings(max_items=10, max_words=100, repeats=2)
LABELS = [65, 66, 67]


def small_directory(path: Path) -> Path:
    """Saves a small random model with a token for each byte."""
    return save_directory(small_models.random_model("llama", max_position_embeddings=8192), path)


def torch_backend(directory: Path) -> Backend:
    """Loads a model that scores each item alone."""
    torch.set_num_threads(1)
    return Backend(TorchScorer(load_model(directory)), load_tokenizer(directory), "serial")


def audit(app: FastAPI, labels=None, settings=SETTINGS):
    with (
        serving(app) as url,
        contextlib.closing(ScoreClient(url, label_token_ids=labels)) as client,
    ):
        return run_audit(client, settings)


def planted(fault: type[Backend], backend: Backend) -> FastAPI:
    values = {field.name: getattr(backend, field.name) for field in dataclasses.fields(backend)}
    return create_app(fault(**values))


def leaking(report) -> set[str]:
    return {finding.name for finding in report.findings if finding.verdict == "leak"}


def stub(refuses=lambda query, items: False, glitch_at: int | None = None) -> FastAPI:
    """A server whose scores follow from the item alone, but for one request if there is a glitch."""
    app, requests = FastAPI(), itertools.count(1)

    @app.post("/v1/score")
    def score(body: dict) -> Response:
        number = next(requests)
        if refuses(body["query"], body["items"]):
            return Response('{"message": "no"}', 422)
        scores = [-1.0 - len(item) - 0.5 * (number == glitch_at) for item in body["items"]]
        return Response(json.dumps({"scores": scores}))

    return app


def own(query: str, item) -> float:
    """A score that follows from query and item alone."""
    return -2 - 8 * hash_of(query, item)


def causal(query: str, items: list) -> list[float]:
    """Scores that also follow from the items before."""
    return [
        own(query, item) - 3 * hash_of(query, item, items[:place])
        for place, item in enumerate(items)
    ]


def hash_of(*values) -> float:
    """In [0, 1), from anything."""
    return int.from_bytes(hashlib.sha256(repr(values).encode()).digest()[:4]) / 2**32


def computing(scores) -> FastAPI:
    """A server that computes its scores with a function of query and items."""
    app = FastAPI()

    @app.post("/v1/score")
    def score(body: dict) -> Response:
        computed = scores(body["query"], body["items"])
        if computed is None:
            return Response('{"message": "no"}', 500)
        return Response(json.dumps({"scores": computed}))

    return app
