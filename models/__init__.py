"""The latent diffusion model, in plain PyTorch. It knows nothing of HTTP."""
