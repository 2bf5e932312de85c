"""The sample model: weights, model card and the licences of the pictures that it learned from."""
