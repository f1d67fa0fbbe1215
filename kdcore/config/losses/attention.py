"""Losses of section 5.5 of the survey (arXiv 2006.05525): Jacobians and rules."""
