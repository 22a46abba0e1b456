"""Photographs, their captions, the degraded pairs, the latent cache, targets per photograph, and training batches.

Reading a file as pixels, drawing a crop and addressing a sample belong here; degradation and networks have packages of
their own.
"""
