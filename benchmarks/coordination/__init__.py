"""What measures a coordination service: one file per service, and what they share.

`loads.py` has the loads and how a client measures itself under one, `cluster.py` the interface to three server processes
and a client. Each service then has a file that starts it and that is its client, if run as a module: a client is a
process of its own, since a load that shares its event loop with a server would measure something else.

All are treated alike: three server processes on loopback, data directories on the same disk, every write on disk before
it is acknowledged where the service can do that, one client process that keeps a fixed number of requests in flight and
is connected to the leader. `Cluster.remarks` says what could not be made equal.

`bare.py` is no service, but the same hops without a protocol: what is between it and haret is the price of the promises.
"""
