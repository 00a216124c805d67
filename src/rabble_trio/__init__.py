"""rabble_trio: an actor runtime for Trio.

How the package is laid out. Every implementation file is private and everything public is re-exported here.

The core is pure, without Trio, clock, randomness or I/O:
    _errors      every error raised on purpose
    _ids         NodeId, Pid, CorrelationId
    _codec       @message classes and their bytes          (_convert: conversions made from annotations)
    _messages    the messages of the runtime itself
    _orset, _members, _handshake, _link    what a cluster is, and how two nodes talk
    _process     Process, Outbox, and effects as data
    _flight      what a flight recorder keeps of a process     (_plain: values as JSON)

The shell is Trio:
    _mailbox     bounded queues, and the mailbox handle of Trio code
    _actor       one incarnation of an actor: its mailbox, timers, monitors, asks
    _journal     where persisted records go                    (_persistence: the barrier between it and processes)
    _sqlite_journal    records on disk, written by a thread    (_journal_file: the file; _journal_open, _wal: what is lost?)
    _recorder    the flight recorder                           (_show: values as text)
    _steps       how a process runs: its steps, timers, effects       (_alarms: waking those whose timers are due)
    _executor    routes envelopes, knows actors, monitors, asks       (_remote: those across nodes; _outlets: what
                 leaves the node at the end of a turn)
    _service     actors that are Trio code
    _workers     blocking and CPU-bound work in threads and processes    (_worker: the inside of such a process)
    _supervisor  restart strategies, ordered start and stop
    _websocket   the only file that imports trio_websocket     (_frames: plain messages; _sockets: TCP and TLS)
    _transport   what carries links, and websockets as that
    _links       a link at work       (_dialer: opens links; _record: what a node keeps of its cluster)
    _cluster     the cluster server
    _server      websocket servers whose connections are pure state machines
    _node        open_node, which owns it all

Imports run upwards in this list.
"""

from ._codec import decode as decode
from ._codec import decode_batch as decode_batch
from ._codec import encode as encode
from ._codec import encode_batch as encode_batch
from ._codec import join_batch as join_batch
from ._codec import message as message
from ._errors import ActorDown as ActorDown
from ._errors import ActorKilled as ActorKilled
from ._errors import ChildFailed as ChildFailed
from ._errors import CodecError as CodecError
from ._errors import ConnectFailed as ConnectFailed
from ._errors import ConnectionClosed as ConnectionClosed
from ._errors import DecodeError as DecodeError
from ._errors import EncodeError as EncodeError
from ._errors import InsecureAddress as InsecureAddress
from ._errors import InvalidId as InvalidId
from ._errors import JoinFailed as JoinFailed
from ._errors import JournalError as JournalError
from ._errors import ListenFailed as ListenFailed
from ._errors import MembershipError as MembershipError
from ._errors import NameInUse as NameInUse
from ._errors import NodeClosed as NodeClosed
from ._errors import NotAMessage as NotAMessage
from ._errors import RabbleError as RabbleError
from ._errors import RecordError as RecordError
from ._errors import WorkerDied as WorkerDied
from ._errors import WorkFailed as WorkFailed
from ._executor import DeadLetter as DeadLetter
from ._ids import CorrelationId as CorrelationId
from ._ids import NodeId as NodeId
from ._ids import Pid as Pid
from ._journal import Journal as Journal
from ._journal import MemoryJournal as MemoryJournal
from ._journal import Stored as Stored
from ._mailbox import Mailbox as Mailbox
from ._mailbox import MailboxStatistics as MailboxStatistics
from ._messages import CancelTimer as CancelTimer
from ._messages import ClusterStatus as ClusterStatus
from ._messages import Demonitor as Demonitor
from ._messages import DemonitorNodes as DemonitorNodes
from ._messages import Down as Down
from ._messages import ExecutorStatus as ExecutorStatus
from ._messages import GetClusterStatus as GetClusterStatus
from ._messages import GetExecutorStatus as GetExecutorStatus
from ._messages import GetMetrics as GetMetrics
from ._messages import LinkStatus as LinkStatus
from ._messages import Metrics as Metrics
from ._messages import Monitor as Monitor
from ._messages import MonitorNodes as MonitorNodes
from ._messages import NodeDown as NodeDown
from ._messages import NodeUp as NodeUp
from ._messages import Persisted as Persisted
from ._messages import Shutdown as Shutdown
from ._messages import Snapshotted as Snapshotted
from ._messages import StartTimer as StartTimer
from ._messages import Stop as Stop
from ._messages import Timeout as Timeout
from ._node import Node as Node
from ._node import NodeStatistics as NodeStatistics
from ._node import open_node as open_node
from ._process import Envelope as Envelope
from ._process import Outbox as Outbox
from ._process import Persist as Persist
from ._process import Process as Process
from ._process import Send as Send
from ._process import Snapshot as Snapshot
from ._recorder import FlightRecorder as FlightRecorder
from ._server import ConnectionHandler as ConnectionHandler
from ._server import ConnectionOutput as ConnectionOutput
from ._server import RequestLimits as RequestLimits
from ._server import WebsocketService as WebsocketService
from ._service import Service as Service
from ._supervisor import ChildSpec as ChildSpec
from ._supervisor import Factory as Factory
from ._supervisor import Restart as Restart
from ._supervisor import Strategy as Strategy
from ._supervisor import Supervisor as Supervisor
from ._transport import Listener as Listener
from ._transport import Transport as Transport
from ._transport import Wire as Wire
from ._transport import cluster_tls as cluster_tls
from ._websocket import Connection as Connection
from ._websocket import ConnectionStatistics as ConnectionStatistics
from ._websocket import ServerLimits as ServerLimits
from ._websocket import open_websocket_client as open_websocket_client
from ._workers import WorkerProcesses as WorkerProcesses
from ._workers import WorkerStatistics as WorkerStatistics
from ._workers import open_worker_processes as open_worker_processes
from ._workers import run_in_process as run_in_process
from ._workers import run_in_thread as run_in_thread

# What is public says that it lives here, so that tracebacks, pickles and the documentation show the name that users import.
for _public in list(vars().values()):
    if getattr(_public, "__module__", "").startswith("rabble_trio._"):
        _public.__module__ = __name__
del _public
