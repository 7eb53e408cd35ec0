"""Metadata lives in pyproject.toml. This file never imports torch."""

from setuptools import setup

setup()
