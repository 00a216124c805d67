"""Three rabble nodes that send each other messages: nothing is lost, doubled or late while a link stands, and nothing grows.

traffic.py    what the nodes send each other, and the invariants of delivery that they check
node.py       the program of one node process; reports a line of JSON every second
report.py     what was measured, whether it is flat, the table at the end
conductor.py  starts the nodes, does harm to them, and judges
"""
