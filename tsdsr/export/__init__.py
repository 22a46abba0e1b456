"""A student for other programs: ONNX graphs, plain diffusers networks, and the model card that goes along."""
