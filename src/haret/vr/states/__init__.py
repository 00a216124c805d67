"""The states of a replica, one file each. `base.py` lists them and says how one follows another."""
