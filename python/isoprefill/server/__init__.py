"""The /v1/score server: a front-end process that never imports jax, and a scheduler process that owns the device."""
