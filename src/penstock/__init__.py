"""Penstock: an open market for AI inference.

ARCHITECTURE.md walks a request through the packages. `penstock.Client` is what callers import.
"""
