"""The student's networks in the form in which they run: adapters merged, timestep and prompt folded in, fewer steps."""
