"""The student's networks for inference: adapters merged, timestep and prompt folded in, less arithmetic."""
