"""Real processes under load and faults, for minutes or hours, and a verdict: `nox -s soak -- haret --minutes 10`.

cluster/      the actor runtime: three nodes, and whether messages arrive as promised
service/      haret: three or five servers, and whether what their clients were told is linearizable
__main__.py   the command
"""
