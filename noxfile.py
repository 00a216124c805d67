"""The project's commands. `nox` runs those that every change must pass; `nox -l` lists them all.

Each session has an environment of its own, so nothing depends on what the machine happens to have installed. A session
runs on the interpreter that runs nox; another one is chosen with, for example, `nox -s tests -P 3.12`.
"""

from __future__ import annotations

import os

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.reuse_venv = "yes"
nox.options.error_on_missing_interpreters = True

PYPROJECT = nox.project.load_toml("pyproject.toml")


def _install(session: nox.Session, *groups: str) -> None:
    """Install the project, editable, and the named dependency groups of pyproject.toml."""
    session.install("-e", ".", *nox.project.dependency_groups(PYPROJECT, *groups))


@nox.session
def lint(session: nox.Session) -> None:
    """Style, formatting, the direction of imports, purity, and types."""
    _install(session, "lint")
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("lint-imports")
    session.run("mypy")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation into docs/_build/html; a warning or an unresolved reference is an error."""
    _install(session, "docs")
    # -E and -a: read and write every page, because a warning shows only when its page is read.
    session.run("sphinx-build", "-n", "-W", "--keep-going", "-E", "-a", "-q", "-b", "html", "docs", "docs/_build/html")


@nox.session(reuse_venv=False)
def package(session: nox.Session) -> None:
    """Install the project as a user does, look at what arrived, and run the demo."""
    session.install(".")
    # -I keeps the working directory off the path: what is imported is what was installed.
    session.run("python", "-I", "tests/check_installed.py")
    session.run("haret", "demo")


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests, the documentation's examples included; arguments go to pytest: `nox -s tests -- -k codec`."""
    _install(session, "test")
    session.run("python", "-m", "pytest", *session.posargs)


@nox.session(default=False)
def coverage(session: nox.Session) -> None:
    """Run the tests and report the lines and branches that none of them reached."""
    _install(session, "test")
    session.run("coverage", "run", "-m", "pytest", *session.posargs)
    session.run("coverage", "report", "--show-missing", "--skip-covered")


@nox.session(default=False)
def simulate(session: nox.Session) -> None:
    """Run the replication protocol under simulated faults for long: `nox -s simulate -- --seed 5000 --runs 9000`.

    Without arguments also every order of events in a small group: minutes, and 2 GB of memory.
    """
    session.install("-e", ".")
    arguments = session.posargs or ["--runs", "2000"]
    for group in (["--replicas", "3"], ["--replicas", "4"], ["--replicas", "5"], ["--fenced"], ["--spares", "2"]):
        session.run("haret", "sim", *group, *arguments)
    if not session.posargs:
        session.run("haret", "sim", "--explore", "--requests", "2", "--fires", "2", "--crashes", "1")


@nox.session(default=False)
def soak(session: nox.Session) -> None:
    """Harm real processes under load, and judge them: `nox -s soak -- haret --minutes 10 --nodes 5`, or `-- cluster`."""
    session.install("-e", ".")
    session.run("python", "-m", "soak", *(session.posargs or ["haret"]))


@nox.session(default=False)
def bench(session: nox.Session) -> None:
    """Measure speed beside the peers, in one run: `nox -s bench -- ask ring` runs two of the benchmarks.

    `nox -s bench -- replication growth` measures haret, for minutes; `--quick` is shorter. Of etcd, ZooKeeper, h2load and
    Erlang, which no index of Python has, those are measured that are there.
    """
    _install(session, "bench")
    # triotp needs a Trio from before 0.20, so it runs in an environment of its own and prints its figures as JSON.
    peer = os.path.join(session.create_tmp(), "triotp")
    if not os.path.exists(os.path.join(peer, "bin", "python")):
        session.run("python", "-m", "venv", peer)
        session.run(os.path.join(peer, "bin", "python"), "-m", "pip", "install", "-q", "triotp>=0.2.1", external=True)
    session.run(
        "python", "-m", "benchmarks", *session.posargs, env={"TRIOTP_PYTHON": os.path.join(peer, "bin", "python")}
    )
