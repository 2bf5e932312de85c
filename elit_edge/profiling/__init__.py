"""What each runtime costs on this device for a bundle: measured once, each in a process of its own, and kept."""
