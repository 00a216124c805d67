"""haret's clients: `open_client` for applications, `open_admin` for operators, and `list_namespaces`.

_machine.py     a client's session, pure: numbers, retries, pauses, what to send after a reconnect
_transport.py   endpoints, and batches of messages over a websocket
_client.py      open_client: the machine over connections, and a method for each operation
_admin.py       open_admin
"""

from ._admin import Admin as Admin
from ._admin import open_admin as open_admin
from ._client import Client as Client
from ._client import ClientStatistics as ClientStatistics
from ._client import Key as Key
from ._client import Reply as Reply
from ._client import list_namespaces as list_namespaces
from ._client import open_client as open_client

for _public in list(vars().values()):
    if getattr(_public, "__module__", "").startswith("haret.client."):
        _public.__module__ = __name__
del _public
