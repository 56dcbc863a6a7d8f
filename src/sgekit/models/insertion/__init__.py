"""Attention put into networks that exist: `insert`, and `remove` to take it out again."""

from sgekit.models.insertion.insert import insert, remove
from sgekit.models.insertion.places import Place, find_places

__all__ = ["Place", "find_places", "insert", "remove"]
