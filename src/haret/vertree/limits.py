"""Every limit of the tree, with its reason. Sizes are bytes.

A limit decides whether an operation succeeds, so it is a part of the replicated state machine: all replicas of a group
must hold the same figures. Change one only together with the version of the snapshot format.
"""

from __future__ import annotations

from typing import Final

MAX_PATH_LENGTH: Final = 1024
"""Bytes of UTF-8 in a path: paths stand in every operation, reply and listing."""

MAX_COMPONENT_LENGTH: Final = 255
"""Bytes of UTF-8 in one component: what file systems allow, so that a tree can be copied into one."""

MAX_DEPTH: Final = 32
"""Components in a path: every write copies one directory for each."""

MAX_VALUE_SIZE: Final = 512 * 1024
"""Bytes in a blob or in an element of a queue: half a frame (1 MiB), so that it travels with its envelope in one."""

MAX_ELEMENT_SIZE: Final = 16 * 1024
"""Bytes in an element of a set: elements are keys, which are compared on each access and returned many at a time."""

MAX_OPERATION_SIZE: Final = 768 * 1024
"""Bytes in all paths, values and literals of one operation: three quarters of a frame."""

MAX_RESULT_SIZE: Final = 768 * 1024
"""Bytes in the set, the page of keys, or the popped elements that one operation returns: it must fit into a frame."""

MAX_CAS_OPERATIONS: Final = 128
"""Operations in a multi-CAS: others wait while it is applied. (As many as in an etcd transaction.)"""

MAX_CAS_GUARDS: Final = 128
"""Guards in a multi-CAS, for the same reason."""

MAX_SET_OPERANDS: Final = 16
"""Paths and literal sets in one union: each may be as large as a set can be, and others wait meanwhile."""

MAX_SET_SIZE: Final = 131_072
"""Elements in a set: set algebra reads whole sets, which takes a tenth of a second at this size."""

MAX_QUEUE_LENGTH: Final = 1_000_000
"""Elements in a queue: a queue that nobody empties must end in an error, not in exhausted memory."""

MAX_CHILDREN: Final = 1_000_000
"""Children of a directory, for the same reason."""

DEFAULT_PAGE: Final = 1_000
"""Keys on a page of a listing unless the caller says otherwise."""

MAX_PAGE: Final = 10_000
"""Keys on a page of a listing: tens of milliseconds of work, during which others wait."""
