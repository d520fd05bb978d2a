"""Freezes a run into a bundle: one ONNX graph, verified against torch, and all that a service must know."""
