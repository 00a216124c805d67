"""What haret's clients and servers say to each other: typed messages, pure, with a version.

    common.py   the greeting that every connection begins with, errors as values, limits
    api.py      the client port: sessions and requests in them, stale reads
    admin.py    the admin port: questions and answers

A connection is a websocket; a frame is a batch of messages (`rabble_trio.encode_batch`). The first message of a
client is `Hello`; the server answers `Welcome`, or `Refused` and closes. Operations of the tree and their results
travel as opaque bytes: encoded once, by the client and by the replicas, and decoded once at the other end.
"""

from .admin import AdminReply as AdminReply
from .admin import AdminRequest as AdminRequest
from .admin import Answer as Answer
from .admin import Ask as Ask
from .admin import Config as Config
from .admin import Crash as Crash
from .admin import CreateNamespace as CreateNamespace
from .admin import Done as Done
from .admin import GetClusterStatus as GetClusterStatus
from .admin import GetConfig as GetConfig
from .admin import GetExecutorStatus as GetExecutorStatus
from .admin import GetMetricsOf as GetMetricsOf
from .admin import GetPrimary as GetPrimary
from .admin import GetReplica as GetReplica
from .admin import JoinCluster as JoinCluster
from .admin import LeaveCluster as LeaveCluster
from .admin import ListNamespaces as ListNamespaces
from .admin import Namespace as Namespace
from .admin import Namespaces as Namespaces
from .admin import Primary as Primary
from .admin import Reconfigure as Reconfigure
from .admin import Replica as Replica
from .api import Enter as Enter
from .api import Entered as Entered
from .api import Expired as Expired
from .api import GetNamespaceNames as GetNamespaceNames
from .api import Leave as Leave
from .api import NamespaceNames as NamespaceNames
from .api import Ping as Ping
from .api import Pong as Pong
from .api import Ready as Ready
from .api import Redirect as Redirect
from .api import Result as Result
from .api import Retry as Retry
from .api import StaleRead as StaleRead
from .api import Submit as Submit
from .api import Visit as Visit
from .common import ADMIN as ADMIN
from .common import API as API
from .common import CLIENT_ID_BYTES as CLIENT_ID_BYTES
from .common import DURABILITIES as DURABILITIES
from .common import DURABLE as DURABLE
from .common import FENCED as FENCED
from .common import MAX_BATCH_BYTES as MAX_BATCH_BYTES
from .common import MAX_FRAME as MAX_FRAME
from .common import MAX_IN_FLIGHT as MAX_IN_FLIGHT
from .common import MAX_REPLICAS as MAX_REPLICAS
from .common import MAX_STALE_READS as MAX_STALE_READS
from .common import MIN_REPLICAS as MIN_REPLICAS
from .common import NAMESPACES_PAGE as NAMESPACES_PAGE
from .common import PING_AFTER as PING_AFTER
from .common import SILENCE as SILENCE
from .common import VERSION as VERSION
from .common import BadRequest as BadRequest
from .common import Hello as Hello
from .common import NamespaceExists as NamespaceExists
from .common import NotEnoughReplicas as NotEnoughReplicas
from .common import Refused as Refused
from .common import Unanswered as Unanswered
from .common import UnknownActor as UnknownActor
from .common import UnknownNamespace as UnknownNamespace
from .common import Welcome as Welcome
