"""The entry point to isoprefill_sglang_jax: `from isoprefill.integrations.sglang_jax import install`."""

from isoprefill_sglang_jax import IncompatibleSglangJaxError, install

__all__ = ["IncompatibleSglangJaxError", "install"]
