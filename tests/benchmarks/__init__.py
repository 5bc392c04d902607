"""How fast ringonce is, beside its peers and its ceilings: ``python -m tests.benchmarks``."""
