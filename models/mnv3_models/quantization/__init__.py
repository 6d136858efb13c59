"""Quantization to int8, simulated in PyTorch: to train for it, and to find the layers that suffer most."""
