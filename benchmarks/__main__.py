"""`python -m benchmarks [NAME ...]`: run the named benchmarks, or all of them."""

from __future__ import annotations

import argparse
import importlib
import time

from .harness import Row, machine_facts, save, table

NAMES = ["local_one_way", "ask", "ring", "timers", "tree", "vr_core", "service", "cluster", "recorder", "journal"]
"""The benchmarks, in the order of the table."""

LONG = ["replication", "growth"]
"""They take minutes, have tables of their own, and run only if they are named."""


def main() -> None:
    """Run, print the table, write the file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which to run, of: {', '.join(NAMES + LONG)}")
    parser.epilog = f"Without a name, all but the last {len(LONG)} run."
    parser.add_argument("--quick", action="store_true", help=f"fewer and shorter runs of {' and '.join(LONG)}")
    options = parser.parse_args()
    chosen = options.names or NAMES
    for name in chosen:
        if name not in NAMES + LONG:
            parser.error(f"there is no benchmark {name!r}: choose from {', '.join(NAMES + LONG)}")
    rows = []
    tables: list[str] = []
    short: list[Row] = []
    for name in chosen:
        print(f"{name} ...", flush=True)
        started = time.perf_counter()
        benchmark = importlib.import_module(f".{name}", __package__)
        if name in LONG:
            found = benchmark.run(quick=options.quick)
            tables.append(benchmark.table(found))
        else:
            short += (found := benchmark.run())
        rows += found
        print(f"{name} took {time.perf_counter() - started:.1f} s", flush=True)
    for one in [*([table(short)] if short else []), *tables]:
        print(f"\n{one}")
    print()
    print(", ".join(f"{name} {value}" for name, value in machine_facts().items()))
    print(f"written to {save(rows)}")


if __name__ == "__main__":
    main()
