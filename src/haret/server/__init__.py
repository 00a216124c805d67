"""haret's server: a node with its namespaces, a client port and an admin port.

config.py       what a server is told: a TOML file, checked
registry.py     which groups there are: what every node comes to know            pure
grants.py       who may create a namespace; when a replica may start fresh       pure
gossip.py       what the namespace managers of a cluster say to each other       pure
directory.py    which namespaces there are, who leads them, where the nodes are  pure
store.py        what is kept in the data directory
groups.py       the replicas that run on this node
reconfiguration.py  changes the members of a namespace while it runs
namespaces.py   the namespace manager: creates namespaces, spreads them, follows their primaries
operator.py     joins and leaves clusters
greeting.py     how every connection begins                                      pure
api.py          one connection of the client port                                pure
admin.py        one connection of the admin port                                 pure
assembly.py     open_server: puts it all together

client -- websocket -- ApiConnection --+            +-- replica r1 --+
                                       +-- Request -+-- replica r2   | ViewChanged
admin  -- websocket -- AdminConnection +            +-- replica r3   v
                              |  CreateNamespace, Crash, ...    NamespaceManager
                              +--------------------------------------^
                                          other nodes' managers -----+
"""

from .assembly import Server as Server
from .assembly import open_server as open_server
from .config import ServerConfig as ServerConfig
from .config import load_config as load_config
from .config import parse_config as parse_config
