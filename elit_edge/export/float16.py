"""What float16 can hold, and why a node of a float16 graph computes in float32 nevertheless."""

from __future__ import annotations

from typing import Literal

FP16_GREATEST = 65504.0
Reason = Literal["angles", "sum of squares", "overflow"]
"""Why a node of an fp16 graph stays in float32: the timestep's angles lose too much, the sum of squares of a norm may
overflow, a number was seen to come near the greatest one of fp16."""
