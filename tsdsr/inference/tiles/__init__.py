"""Inference in overlapping tiles: their positions and sizes, their blending, and the engine."""
