"""Brings a store to the newest schema, from any released one (Alembic migrations in migrations/)."""

from __future__ import annotations

import logging
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy.engine import Engine

# It names every plug-in that it loads.
logging.getLogger("alembic.runtime.plugins").setLevel(logging.WARNING)


def scripts() -> ScriptDirectory:
    """Every revision that there is."""
    return ScriptDirectory.from_config(_config())


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config


def upgrade(engine: Engine, revision: str = "head") -> None:
    """All migrations or none: a hub that is killed in the middle finds the old schema again."""
    config = _config()
    with engine.begin() as connection:
        if engine.dialect.name == "sqlite":
            # Python's sqlite3 begins a transaction only at the first change of data: each change of a table
            # before it would be on disk by itself.
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
