"""What the groups of SGE look at: recording gates, ranking groups, picking examples."""

from sgekit.analysis.capture import GateRecord, capture
from sgekit.analysis.examples import Example, GateMap, gate_examples
from sgekit.analysis.selectivity import most_selective, selectivity

__all__ = [
    "Example",
    "GateMap",
    "GateRecord",
    "capture",
    "gate_examples",
    "most_selective",
    "selectivity",
]
