"""Data sources: real text, memory-mapped tokens, chains of known entropy; keyed order.

NumPy only: batches are int64 (or float32) arrays, and the training loop wraps them.
"""

from isoloss.data.permutation import permute, sample_order
from isoloss.data.registry import SOURCES, open_source
from isoloss.data.source import Source, TokenSource, VectorSource

__all__ = ["SOURCES", "Source", "TokenSource", "VectorSource", "open_source", "permute", "sample_order"]
