"""What runs a bundle: one folder a backend, all behind the contract of contract.py, found by registry.py."""
