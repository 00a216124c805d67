"""A cluster of three processes under traffic and faults, for minutes or hours: `nox -s soak -- --minutes 10`.

traffic.py    what the nodes send each other, and the invariants of delivery that they check
node.py       the program of one node process; reports a line of JSON every second
report.py     what was measured, whether it is flat, the table at the end
__main__.py   starts the nodes, does harm to them, and judges
"""
