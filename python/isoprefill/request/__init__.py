"""Requests, their options, errors and results. Importing this room does not import jax."""
