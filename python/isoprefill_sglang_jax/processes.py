"""Entry points of sglang-jax's child processes: a spawned process imports sglang-jax anew and needs its own install."""

from typing import Any


def run_scheduler_process(install_options: dict[str, Any], *args: Any, **kwargs: Any) -> None:
    """sglang-jax's `run_scheduler_process` after `install()`."""
    from isoprefill_sglang_jax.hooks import install

    install(**install_options)
    from sgl_jax.srt.managers import scheduler

    scheduler.run_scheduler_process(*args, **kwargs)
