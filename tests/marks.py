"""Conditions under which tests of several files are skipped."""

from __future__ import annotations

import os

import pytest

posix_only = pytest.mark.skipif(os.name == "nt", reason="needs POSIX")
