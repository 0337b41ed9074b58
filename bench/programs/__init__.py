"""Whole programs that start-up is measured with."""
