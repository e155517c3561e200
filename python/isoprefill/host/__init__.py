"""What this process may use of its machine. Importing this does not import jax."""
