"""Core ML packages from the weights of a bundle: two layouts, every budget a function over one copy of the weights."""
