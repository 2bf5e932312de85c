"""A SIMULATION of Core ML under the real coremltools, for machines that are no Macs.

coremltools' own Python code runs as it is: `CompiledMLModel`, `compile_model`, `MLComputePlan`. What is simulated is
the native part below it, which its wheels for macOS alone have (libcoremlpython), and the version of macOS.

What tests prove with it: which calls are made with what, how rows are split over functions, what is kept in the cache,
and what errors say; numbers come from elit_edge's own evaluator of the saved package. What they cannot prove: that Core
ML accepts a package, what a Neural Engine or a GPU computes, where it runs, and how fast.
"""
