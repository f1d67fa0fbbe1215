"""Samples made by teachers on Ray."""
