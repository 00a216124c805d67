"""A pytest plugin: saved schedules are tests, and a run that fails says how to repeat it.

Off unless it is told a folder:

    [tool.pytest.ini_options]
    rabble_schedules = ["tests/schedules"]

1. Every `*.schedule` file below such a folder is a test: it is replayed, and must not fail. Choices that can't be made
   any more are left out, because a fixed algorithm does other things than the broken one did.
2. When a test fails with `ScenarioFailed`, its schedule is saved in pytest's cache, and the report ends with the command
   that replays it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import pytest

from ._choices import ScheduleError
from ._schedule import SUFFIX, ScenarioFailed, Schedule, replay_command

OPTION: Final = "rabble_schedules"
"""The name of the setting."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the setting."""
    parser.addini(OPTION, "folders of schedules saved by rabble_trio.testing, each of which is a test", "paths", [])


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """Schedules in the folders are tests."""
    folders = parent.config.getini(OPTION)
    if file_path.suffix == SUFFIX and any(Path(folder) in file_path.parents for folder in folders):
        return ScheduleFile.from_parent(parent, path=file_path)
    return None


class ScheduleFile(pytest.File):
    """A file that holds one schedule."""

    def collect(self) -> Iterable[pytest.Item]:
        """The one test."""
        yield ScheduleItem.from_parent(self, name="replay")


class ScheduleItem(pytest.Item):
    """The test that replays a schedule."""

    def runtest(self) -> None:
        """Replay it."""
        Schedule.load(self.path).replay(strict=False)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], *arguments: Any, **options: Any) -> Any:
        """What went wrong, and how to see it again."""
        if excinfo.errisinstance(ScheduleError):
            return f"{self.path}: {excinfo.value}"
        text = super().repr_failure(excinfo, *arguments, **options)
        return f"{text}\n\nreplay it with: {replay_command(self.path)}"

    def reportinfo(self) -> tuple[Path, int, str]:
        """Where it is, and what it is called."""
        return self.path, 0, f"schedule {self.path.name}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """Save the schedule of a run that failed."""
    report = yield
    failed = call.excinfo.value if call.excinfo is not None else None
    cache = getattr(item.config, "cache", None)
    if isinstance(failed, ScenarioFailed) and cache is not None and item.config.getini(OPTION):
        name = re.sub(r"[^\w.-]+", "_", item.nodeid)[-100:]
        path = cache.mkdir("rabble-schedules") / f"{name}{SUFFIX}"
        failed.schedule.save(path)
        report.sections.append(("schedule", f"replay it with: {replay_command(path)}"))
    return report
