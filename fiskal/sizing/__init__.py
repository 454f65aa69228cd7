"""Measuring a TSE, and planning how many of them a shop needs."""
