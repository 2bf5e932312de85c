"""A calibration as one page: verdict, pictures, layers, ranges."""
