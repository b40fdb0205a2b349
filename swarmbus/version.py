"""The version of this distribution, in the one place that the build and the program both read."""

__version__ = "1.0.0"

WIRE = 1
"""Number of the wire dialect, carried in presence and in every envelope we write.

1 means: sends receipts, suppresses duplicates by id, accepts several envelopes in one message.
Peers that carry none (swarmbus-py 0.1.x and 0.2.0) do none of these.
"""
