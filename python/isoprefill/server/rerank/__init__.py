"""Reranking: documents by their relevance to a query, in the shapes that other services' clients expect."""
