"""How long Hypothesis searches. Nothing else applies to all tests."""

from __future__ import annotations

import os

from hypothesis import settings

# No deadlines: they would fail tests because the machine is busy.
settings.register_profile("dev", deadline=None, max_examples=50)
settings.register_profile("ci", deadline=None, max_examples=100, derandomize=True, print_blob=True)
settings.register_profile("nightly", deadline=None, max_examples=1_000, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if "CI" in os.environ else "dev"))
