"""What is asked and what comes back. Importing this room does not import jax."""
