"""How fast it is, beside its peers, on the machine at hand: `nox -s bench`.

One file per measured thing. Each has `run() -> list[Row]`, which measures this project and its peers in turn, so that
all figures of a table come from the same machine in the same minutes. `harness.py` has what they share; `peers/` what
must run in an environment of its own. Nothing here is a test: no figure is ever asserted.
"""
