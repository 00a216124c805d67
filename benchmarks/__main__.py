"""`python -m benchmarks [NAME ...]`: run the named benchmarks, or all of them."""

from __future__ import annotations

import argparse
import importlib
import time

from .harness import machine_facts, save, table

NAMES = ["local_one_way", "ask", "ring", "timers", "tree", "vr_core", "service", "cluster"]
"""The benchmarks, in the order of the table."""


def main() -> None:
    """Run, print the table, write the file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which to run, of: {', '.join(NAMES)} (default: all)")
    chosen = parser.parse_args().names or NAMES
    for name in chosen:
        if name not in NAMES:
            parser.error(f"there is no benchmark {name!r}: choose from {', '.join(NAMES)}")
    rows = []
    for name in chosen:
        print(f"{name} ...", flush=True)
        started = time.perf_counter()
        rows += importlib.import_module(f".{name}", __package__).run()
        print(f"{name} took {time.perf_counter() - started:.1f} s", flush=True)
    print()
    print(table(rows))
    print()
    print(", ".join(f"{name} {value}" for name, value in machine_facts().items()))
    print(f"written to {save(rows)}")


if __name__ == "__main__":
    main()
