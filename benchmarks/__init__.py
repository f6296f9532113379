"""Benchmarks against plain baselines; ``make bench`` runs them, docs/benchmarks.md holds the figures."""
