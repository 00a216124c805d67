"""rabble_trio: an actor runtime for Trio."""

from ._codec import decode as decode
from ._codec import encode as encode
from ._codec import message as message
from ._errors import *  # noqa: F403
from ._ids import CorrelationId as CorrelationId
from ._ids import NodeId as NodeId
from ._ids import Pid as Pid
from ._messages import *  # noqa: F403
from ._process import Envelope as Envelope
from ._process import Outbox as Outbox
from ._process import Process as Process
