"""rabble_trio.testing: the world of your processes, decided by you, or by a seed.

How the package is laid out. For processes alone, without Trio:

    _faults      what goes wrong in a run, and how often
    _choices     one thing that was decided, as a value and as a line of JSON
    _disk        the journal of a process, and how a disk damages it
    _pending     processes, paths between them, what is pending
    _world       how processes run in a simulation, and checks after each step
    _simulation  everything that can be chosen in it
    _driver      chooses by virtual time and chance
    _schedule    scenarios; schedules to save, load and replay
    _flight      the world of what a flight recorder wrote
    _minimize    shortens a schedule that fails
    _steps       what single processes do in an exploration, each step once       (_freeze: states as values)
    _explore     every order in which things can happen, within bounds
    hypothesis   strategies, and a state machine whose rules are the choices; import it by its own name
    __main__     the command that replays and shortens saved schedules
    pytest_plugin  saved schedules as tests
    step         the command rabble-step (_recording: what steps did, _diagram, _page: pictures)

For real nodes, on Trio, under virtual time if you like:

    _network     carries links in memory: delays, losses, partitions
    _cluster     nodes over it that have joined

Imports run upwards in this list, but that a simulation has a driver.
"""

from ._choices import Choice as Choice
from ._choices import Crash as Crash
from ._choices import ScheduleError as ScheduleError
from ._cluster import Cluster as Cluster
from ._cluster import open_cluster as open_cluster
from ._explore import Exploration as Exploration
from ._explore import explore as explore
from ._faults import Faults as Faults
from ._flight import NotReplayable as NotReplayable
from ._flight import flight as flight
from ._minimize import minimize as minimize
from ._network import MemoryNetwork as MemoryNetwork
from ._pending import Pending as Pending
from ._schedule import Scenario as Scenario
from ._schedule import ScenarioFailed as ScenarioFailed
from ._schedule import Schedule as Schedule
from ._schedule import run_scenario as run_scenario
from ._schedule import scenario as scenario
from ._simulation import NotConverged as NotConverged
from ._simulation import Simulation as Simulation
from ._world import Step as Step

# As in `rabble_trio`: what is public says that it lives here.
for _public in list(vars().values()):
    if getattr(_public, "__module__", "").startswith("rabble_trio.testing._"):
        _public.__module__ = __name__
del _public
