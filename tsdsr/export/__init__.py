"""Exports of a student for other programs: ONNX graphs, plain diffusers networks, and the model card."""
