"""Decoders: a VAE in, a graph from latents to pixels out."""
