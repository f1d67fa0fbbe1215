"""Samples without data: what a teacher knows, asked of the teacher itself."""
