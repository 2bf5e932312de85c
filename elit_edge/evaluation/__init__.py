"""The quality table of a bundle: what each plan loses, measured; the public face is `evaluating.evaluate`."""
