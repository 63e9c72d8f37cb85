"""The memo table of what was trained: states, curves and measurements, addressed by what led to them."""

from isoloss.store.index import Row
from isoloss.store.lease import Lease
from isoloss.store.pieces import Piece, Side
from isoloss.store.places import has_store
from isoloss.store.store import Loaded, Store
from isoloss.store.tables import Measurement

__all__ = ["Lease", "Loaded", "Measurement", "Piece", "Row", "Side", "Store", "has_store"]
