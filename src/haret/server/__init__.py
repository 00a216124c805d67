"""haret's server: a node with its namespaces, a client port and an admin port.

config.py       what a server is told: a TOML file, checked
directory.py    which namespaces there are, and who leads them            pure
namespaces.py   the namespace manager: starts groups of replicas, follows their primaries
greeting.py     how every connection begins                               pure
api.py          one connection of the client port                         pure
admin.py        one connection of the admin port                          pure
assembly.py     open_server: puts it all together

client -- websocket -- ApiConnection --+            +-- replica r1 --+
                                       +-- Request -+-- replica r2   | ViewChanged
admin  -- websocket -- AdminConnection +            +-- replica r3   v
                              |  CreateNamespace, Crash, ...    NamespaceManager
                              +--------------------------------------^
"""

from .assembly import Server as Server
from .assembly import open_server as open_server
from .config import ServerConfig as ServerConfig
from .config import load_config as load_config
from .config import parse_config as parse_config
