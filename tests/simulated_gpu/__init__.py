"""A SIMULATION of a GPU, its driver and TensorRT, for machines that have none.

What tests prove with it: which calls are made, in what order, and that all that was taken is given back; and the
arithmetic of splitting batches, as the numbers come from ONNX Runtime on the CPU. What they cannot prove: speed, what a
GPU's kernels compute, and what the real libraries do beyond their published interface.

`driver` stands for cuda.bindings.driver, `tensorrt` for classic TensorRT 10.13, `tensorrt_rtx` for TensorRT for RTX.
"""
