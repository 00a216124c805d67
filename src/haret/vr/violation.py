"""The check that stays on in production."""

from __future__ import annotations


class ProtocolViolation(Exception):
    """A replica found that a rule of the protocol does not hold. It crashes rather than spread the damage.

    Its supervisor starts it anew, without memory, so it takes no further part in decisions. This is always a bug.
    """


def check(condition: bool, rule: str) -> None:
    """Raise `ProtocolViolation` unless `condition` holds. Unlike `assert`, it can't be switched off."""
    if not condition:
        raise ProtocolViolation(f"this rule of the protocol was broken: {rule}")
