"""Serves bundles with ONNX Runtime over gRPC; knows nothing of torch, of training or of how a bundle was made."""
