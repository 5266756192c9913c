"""Float networks for small images. They know nothing of quantization."""
