"""Picture files: read with everything that belongs to them, and written again. Nothing here needs torch."""
