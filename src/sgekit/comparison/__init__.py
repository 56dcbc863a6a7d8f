"""Paired comparisons of attention: plan, statistics, conclusion, report."""
