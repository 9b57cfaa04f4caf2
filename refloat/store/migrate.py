"""Brings a store to the newest schema, from any released one (Alembic migrations in migrations/)."""

from __future__ import annotations

import logging
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy.engine import Engine

# It names every plug-in that it loads.
logging.getLogger("alembic.runtime.plugins").setLevel(logging.WARNING)


def upgrade(engine: Engine, revision: str = "head") -> None:
    """All migrations or none: a hub that is killed in the middle finds the old schema again."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    with engine.begin() as connection:
        # Python's sqlite3 begins a transaction only at the first change of data: each change of a table
        # before it would be on disk by itself.
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
