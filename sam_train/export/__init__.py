"""Trained weights for other programs: safetensors, segment-anything, Hugging Face, ONNX."""
