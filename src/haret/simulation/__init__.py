"""haret.simulation: groups of replicas in a simulated world, with all that must hold checked after every step.

    machine     a state machine whose answers tell the whole history before them
    client      clients: sessions, pipelining, retries
    invariants  the checks
    group       the scenario that puts them together, and what convergence means
    campaign    many runs of it
    small       a group so small that every order of events can be tried

Nothing here is used in production, and `haret.vr` knows nothing of it. `haret sim` runs it.
"""

from .campaign import Campaign as Campaign
from .client import Client as Client
from .client import Load as Load
from .group import Group as Group
from .group import group as group
from .invariants import ClientInvariants as ClientInvariants
from .invariants import InvariantBroken as InvariantBroken
from .invariants import ReplicaInvariants as ReplicaInvariants
from .machine import Ledger as Ledger
