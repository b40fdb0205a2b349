"""Benchmarks against the released peer, in pairs within one run: ``make bench`` writes docs/benchmarks.md."""
