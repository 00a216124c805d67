"""haret: a coordination service on rabble_trio.

Many independent groups ("namespaces"), each replicating a versioned tree with typed leaves.

How the package is laid out, from the bottom up:

    errors.py   every error, as exceptions
    vertree/    the persistent, versioned tree               pure
    vr/         Viewstamped Replication                      pure
    protocol/   what clients and servers say to each other   pure
    backend.py  the tree as what a group replicates
    server/     open_server: a node with its namespaces, client port and admin port
    client/     open_client, open_admin
    cli/        the `haret` command

Imports run upwards in this list.
"""

from .client import Admin as Admin
from .client import Client as Client
from .client import ClientStatistics as ClientStatistics
from .client import Key as Key
from .client import Reply as Reply
from .client import list_namespaces as list_namespaces
from .client import open_admin as open_admin
from .client import open_client as open_client
from .errors import AlreadyExists as AlreadyExists
from .errors import BadRequest as BadRequest
from .errors import CannotDeleteRoot as CannotDeleteRoot
from .errors import CasFailed as CasFailed
from .errors import ConfigError as ConfigError
from .errors import DoesNotExist as DoesNotExist
from .errors import HaretError as HaretError
from .errors import InvalidCas as InvalidCas
from .errors import InvalidPath as InvalidPath
from .errors import InvalidType as InvalidType
from .errors import LimitExceeded as LimitExceeded
from .errors import NamespaceExists as NamespaceExists
from .errors import NotEnoughReplicas as NotEnoughReplicas
from .errors import PathMustEndInDirectory as PathMustEndInDirectory
from .errors import SessionExpired as SessionExpired
from .errors import Unanswered as Unanswered
from .errors import Unavailable as Unavailable
from .errors import UnknownActor as UnknownActor
from .errors import UnknownNamespace as UnknownNamespace
from .errors import UnknownOperation as UnknownOperation
from .errors import WrongType as WrongType
from .protocol import Config as Config
from .protocol import Namespace as Namespace
from .protocol import Replica as Replica
from .server import Server as Server
from .server import ServerConfig as ServerConfig
from .server import load_config as load_config
from .server import open_server as open_server
from .server import parse_config as parse_config
from .server.config import Timeouts as Timeouts
from .server.config import Tls as Tls
from .vertree import BlobGet as BlobGet
from .vertree import BlobPut as BlobPut
from .vertree import BlobSize as BlobSize
from .vertree import Create as Create
from .vertree import Delete as Delete
from .vertree import Guard as Guard
from .vertree import ListKeys as ListKeys
from .vertree import MultiCas as MultiCas
from .vertree import Operation as Operation
from .vertree import QueueBack as QueueBack
from .vertree import QueueFront as QueueFront
from .vertree import QueueLen as QueueLen
from .vertree import QueuePop as QueuePop
from .vertree import QueuePush as QueuePush
from .vertree import Result as Result
from .vertree import SetContains as SetContains
from .vertree import SetDifference as SetDifference
from .vertree import SetInsert as SetInsert
from .vertree import SetIntersection as SetIntersection
from .vertree import SetRemove as SetRemove
from .vertree import SetSubset as SetSubset
from .vertree import SetSuperset as SetSuperset
from .vertree import SetSymmetricDifference as SetSymmetricDifference
from .vertree import SetUnion as SetUnion
from .vertree import Write as Write

# What is public says that it lives here, so that tracebacks and the documentation show the name that users import.
for _public in list(vars().values()):
    if getattr(_public, "__module__", "").startswith("haret."):
        _public.__module__ = __name__
del _public
