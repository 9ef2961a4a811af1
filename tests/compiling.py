"""How XLA compiles in tests: most of their time is compiling, so it optimises less. Prints it, for other commands."""

import importlib.metadata

XLA_FLAGS = [
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
    "--xla_cpu_parallel_codegen_split_count=1",
]
# Halves what is left; JAX 0.12 no longer has it.
if tuple(map(int, importlib.metadata.version("jaxlib").split(".")[:2])) < (0, 12):
    XLA_FLAGS.append("--xla_cpu_use_fusion_emitters=false")

if __name__ == "__main__":
    print(" ".join(XLA_FLAGS))
