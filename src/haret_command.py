"""Where the `haret` command starts: outside of the package, to be there before it.

Importing `haret` takes a few tenths of a second, in which a hasty Ctrl-C would otherwise end in a traceback.
"""

import signal


def main() -> int:
    """Run the command with the arguments of the process, and return its exit code."""
    try:
        from haret.cli import main as command  # noqa: PLC0415  # see above

        code = command()
    except KeyboardInterrupt:
        code = 130
    # All is done; a Ctrl-C while the interpreter cleans up could only spoil the last line on the screen.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return code
