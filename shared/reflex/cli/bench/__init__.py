"""The benchmarks of `reflex bench`: each figure beside a limit or a peer that is measured in the same run."""
