"""Stored labels made again, by the live teacher."""
