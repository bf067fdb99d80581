"""Event tables to a corpus: the numbered SQL files of ``plan/`` in order, then flat arrays.

Total order of events: user id text, time in ms, then ``line``; equal tables with equal lines give the same corpus, in whatever order
their rows arrive. Everything fitted (users, items, words, categories) is fitted on the training split.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from seerec.atomic import atomic_folder, write_json
from seerec.config import DataSettings
from seerec.data import candidates
from seerec.data.corpus import FIRST_ID, FORMAT, PADDING, TEST, TRAIN, UNKNOWN, VALIDATION, Corpus
from seerec.data.events import Events
from seerec.data.text import Encoded, Tokeniser, encode
from seerec.errors import SeerecError
