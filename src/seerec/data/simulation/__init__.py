"""Raw files in the formats of published data sets: their columns, their counts, none of their content."""

from seerec.data.simulation.files import KINDS, SCALES, simulate

__all__ = ["KINDS", "SCALES", "simulate"]
