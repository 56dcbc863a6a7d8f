"""Attention put into networks that exist: `insert`, and `remove` to take it out again."""

from sgekit.models.insertion.insert import insert, remove
from sgekit.models.insertion.places import Place, find_places
from sgekit.models.insertion.sync import synchronize_norms

__all__ = ["Place", "find_places", "insert", "remove", "synchronize_norms"]
