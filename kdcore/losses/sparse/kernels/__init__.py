"""The sparse loss on CUDA, in Triton. Modules here import triton: import them where they are used, not before."""
