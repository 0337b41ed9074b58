"""Whole programs whose start-up time is measured."""
