"""Reranking over HTTP, in the shapes that other services' clients expect."""
