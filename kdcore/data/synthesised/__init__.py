"""Samples that a teacher made: how a unit of them is kept, what is gathered from all units, and how they are read."""
