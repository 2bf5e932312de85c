"""Smaller and faster precisions of a bundle, held to float32 at every budget; the public face is `calibrating`."""
