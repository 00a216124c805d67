"""haret.vr: Viewstamped Replication as a pure rabble process. See the README beside this file.

`Replica` is the process. Give it a `Configuration`, a `StateMachine`, a source of randomness and `Settings`; the messages
that it understands are in `haret.vr.messages`.
"""

from .configuration import Configuration as Configuration
from .configuration import Settings as Settings
from .configuration import StateMachine as StateMachine
from .replica import Replica as Replica
from .violation import ProtocolViolation as ProtocolViolation
