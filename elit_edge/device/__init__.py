"""What this machine is: facts read from the system, runtimes that are ready, short measurements, pressure and energy.

The public face is `probe` and `identity`; pressure.py and energy.py are for what runs in a loop.
"""

from elit_edge.device.facts import Device
from elit_edge.device.probing import identity, probe

__all__ = ["probe", "identity", "Device"]
