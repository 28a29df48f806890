"""Frozen data and protocols that every other part speaks; knows neither torch nor any other part."""
