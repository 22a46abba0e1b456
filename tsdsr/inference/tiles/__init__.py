"""One picture through three networks in overlapping tiles: their places and sizes, their blending, and the engine."""
