"""Reranking: documents by their relevance to a query, as language models and classification heads can be asked."""
