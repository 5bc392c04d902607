"""The peers' programs, as their own users would write them: read key and payload, post, store the answer.

``python -m tests.benchmarks.peers.NAME enqueue COUNT`` fills the queue, ``... work`` is one process at it.
"""
