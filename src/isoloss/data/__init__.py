"""Data sources: real text, memory-mapped tokens, images, chains of known entropy; keyed order.

NumPy only: batches are int64 (or float32) arrays, and the training loop wraps them.
"""

from isoloss.data.augment import Augmentation
from isoloss.data.images import ImageSource
from isoloss.data.permutation import permute, sample_order
from isoloss.data.registry import SOURCES, open_source
from isoloss.data.source import Source, TokenSource, VectorSource

__all__ = [
    "SOURCES",
    "Augmentation",
    "ImageSource",
    "Source",
    "TokenSource",
    "VectorSource",
    "open_source",
    "permute",
    "sample_order",
]
