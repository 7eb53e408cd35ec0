"""The compiled module ``_kernels``, and what makes it and its CUDA images; knows nothing of torch's tensors."""
