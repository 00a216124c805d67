"""Servers of haret under load and faults: is what their clients were told linearizable, and done once?

conductor.py   the whole: starts servers and clients, does harm, waits for things to heal, judges
nodes.py       one server process, its disk and its place in the network
network.py     a network of Linux namespaces that can be cut, or the loopback that can't
faults.py      each kind of harm, and what it leaves to be mended
mix.py         what a client calls next
load.py        clients that call, die and come again, and the record of it all
history.py     a call and what became of it; files of them
checker.py     the verdict on a history
report.py      the table and the figures
"""
