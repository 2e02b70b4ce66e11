"""TensorRT and TensorRT-RTX: library, GPU, plans, builder, targets."""
