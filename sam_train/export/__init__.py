"""Trained weights for other programs: safetensors, segment-anything, Hugging Face, ONNX."""

from sam_train.export.safetensors_file import save_weights

__all__ = ["save_weights"]
