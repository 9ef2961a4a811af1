"""How XLA compiles in tests: most of their time is compiling, so it optimises less. Prints that of notebooks."""

import importlib.metadata

SHARED = ["--xla_cpu_parallel_codegen_split_count=1"]
# Halves what is left; JAX 0.12 no longer has it.
if tuple(map(int, importlib.metadata.version("jaxlib").split(".")[:2])) < (0, 12):
    SHARED.append("--xla_cpu_use_fusion_emitters=false")
XLA_FLAGS = ["--xla_backend_optimization_level=0", "--xla_llvm_disable_expensive_passes=true", *SHARED]
# Notebooks compute as well: at level 0 the longest takes twice the time.
OF_NOTEBOOKS = ["--xla_backend_optimization_level=1", *SHARED]

if __name__ == "__main__":
    print(" ".join(OF_NOTEBOOKS))
