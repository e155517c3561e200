"""Attention in C++, for CPUs."""
