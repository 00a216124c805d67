"""A soak of no length starts its nodes, measures them, and stops them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path


def test_a_short_soak(tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    done = subprocess.run(
        [sys.executable, "-m", "soak", "cluster", "--minutes", "0", "--json", str(results)],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=Path(__file__).parents[3],
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no violations" in done.stdout
    found = json.loads(results.read_text())
    assert [process["node"] for process in found["processes"]] == ["n1", "n2", "n3"]
    assert found["operations"]["received"] > 0
    assert found["violations"] == []
