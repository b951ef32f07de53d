"""The promises, each broken on purpose in the smallest way, and the tests that must notice.

A text that is to be broken stands in its file exactly once: code that moves on takes its mutation with it.
"""

from __future__ import annotations

from tests.mutations.mutation import Mutation
from tests.mutations.of_calls import OF_CALLS
from tests.mutations.of_records import OF_RECORDS

MUTATIONS: tuple[Mutation, ...] = (*OF_RECORDS, *OF_CALLS)
