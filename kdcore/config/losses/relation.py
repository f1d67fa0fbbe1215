"""Losses of relations between samples or layers: section 2.3 of the survey (arXiv 2006.05525), and later ones."""
