"""haret.vr: Viewstamped Replication as a pure rabble process. See the README beside this file."""
