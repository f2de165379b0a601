"""The parts of `benchmarks.gpu`: each a module with a `measure`, run in a process of its own."""
