"""Image encoders: a file of this folder declares its architectures and builds their encoder."""
