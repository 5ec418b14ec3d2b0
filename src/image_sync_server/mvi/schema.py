"""The tables of the embedded server."""

from __future__ import annotations

VERSION = 2
"""Kept in ``PRAGMA user_version``; a folder of a newer version is refused."""

TABLES = """
CREATE TABLE IF NOT EXISTS datasets (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, name TEXT NOT NULL, owner TEXT NOT NULL,
    scenario TEXT NOT NULL DEFAULT '', purpose TEXT NOT NULL DEFAULT '', project_group_id TEXT NOT NULL DEFAULT '',
    type INTEGER NOT NULL DEFAULT 0, locked INTEGER NOT NULL DEFAULT 0,
    created_at INTEGER NOT NULL, updated_at INTEGER NOT NULL);

CREATE TABLE IF NOT EXISTS categories (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, name TEXT NOT NULL,
    dataset_id TEXT NOT NULL REFERENCES datasets(id) ON DELETE CASCADE, created_at INTEGER NOT NULL,
    UNIQUE (dataset_id, name));

CREATE TABLE IF NOT EXISTS files (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE,
    dataset_id TEXT NOT NULL REFERENCES datasets(id) ON DELETE CASCADE, owner TEXT NOT NULL,
    original_file_name TEXT NOT NULL, file_name TEXT NOT NULL, content_type TEXT NOT NULL,
    category_id TEXT REFERENCES categories(id) ON DELETE SET NULL, size INTEGER NOT NULL,
    width INTEGER NOT NULL, height INTEGER NOT NULL, user_metadata TEXT NOT NULL DEFAULT '{}',
    created_at INTEGER NOT NULL, uploaded_at INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS files_by_dataset ON files (dataset_id, seq);
CREATE INDEX IF NOT EXISTS files_by_category ON files (category_id, seq);
CREATE INDEX IF NOT EXISTS files_by_name ON files (dataset_id, original_file_name);

CREATE TABLE IF NOT EXISTS tags (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, name TEXT NOT NULL, normalized_name TEXT NOT NULL,
    dataset_id TEXT NOT NULL REFERENCES datasets(id) ON DELETE CASCADE, created_at INTEGER NOT NULL);

CREATE TABLE IF NOT EXISTS labels (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE,
    dataset_id TEXT NOT NULL REFERENCES datasets(id) ON DELETE CASCADE,
    file_id TEXT NOT NULL REFERENCES files(id) ON DELETE CASCADE,
    tag_id TEXT NOT NULL REFERENCES tags(id) ON DELETE CASCADE,
    generate_type TEXT NOT NULL, shape TEXT NOT NULL, created_at INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS labels_by_file ON labels (file_id);
CREATE INDEX IF NOT EXISTS labels_by_dataset ON labels (dataset_id);
CREATE INDEX IF NOT EXISTS labels_by_tag ON labels (tag_id);

CREATE TABLE IF NOT EXISTS keys (
    dataset_id TEXT NOT NULL REFERENCES datasets(id) ON DELETE CASCADE, name TEXT NOT NULL,
    description TEXT NOT NULL DEFAULT '', created_at INTEGER NOT NULL, PRIMARY KEY (dataset_id, name));

CREATE TABLE IF NOT EXISTS tasks (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, name TEXT NOT NULL, dataset_id TEXT NOT NULL,
    owner TEXT NOT NULL, status TEXT NOT NULL, fault TEXT NOT NULL DEFAULT '', nn_arch TEXT NOT NULL DEFAULT '',
    strategy TEXT NOT NULL, base TEXT NOT NULL DEFAULT '', project_group_id TEXT NOT NULL DEFAULT '',
    summary TEXT NOT NULL DEFAULT '{}', series TEXT NOT NULL DEFAULT '[]',
    created_at INTEGER NOT NULL, updated_at INTEGER NOT NULL, usage TEXT NOT NULL DEFAULT 'cic');

CREATE TABLE IF NOT EXISTS models (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, name TEXT NOT NULL, dataset_id TEXT NOT NULL,
    owner TEXT NOT NULL, nn_arch TEXT NOT NULL DEFAULT '', strategy TEXT NOT NULL, accuracy REAL NOT NULL,
    categories TEXT NOT NULL, summary TEXT NOT NULL DEFAULT '{}', project_group_id TEXT NOT NULL DEFAULT '',
    production_status TEXT NOT NULL DEFAULT 'untested', created_at INTEGER NOT NULL,
    usage TEXT NOT NULL DEFAULT 'cic', evaluation TEXT NOT NULL DEFAULT '{}');

CREATE TABLE IF NOT EXISTS webapis (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE REFERENCES models(id), name TEXT NOT NULL,
    owner TEXT NOT NULL, status TEXT NOT NULL, fault TEXT NOT NULL DEFAULT '', accel_type TEXT NOT NULL DEFAULT '',
    created_at INTEGER NOT NULL);

CREATE TABLE IF NOT EXISTS bgtasks (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, status TEXT NOT NULL, event_type TEXT NOT NULL,
    owner TEXT NOT NULL, dataset_id TEXT NOT NULL, total INTEGER NOT NULL, completed INTEGER NOT NULL DEFAULT 0,
    succeeded INTEGER NOT NULL DEFAULT 0, skipped INTEGER NOT NULL DEFAULT 0, failed INTEGER NOT NULL DEFAULT 0,
    fault TEXT NOT NULL DEFAULT '', created_at INTEGER NOT NULL, updated_at INTEGER NOT NULL);

CREATE TABLE IF NOT EXISTS tokens (digest TEXT PRIMARY KEY, owner TEXT NOT NULL, expires_at REAL NOT NULL);
CREATE TABLE IF NOT EXISTS api_keys (owner TEXT PRIMARY KEY, key TEXT NOT NULL);
"""

CHANGES = {
    1: """
ALTER TABLE tasks ADD COLUMN usage TEXT NOT NULL DEFAULT 'cic';
ALTER TABLE models ADD COLUMN usage TEXT NOT NULL DEFAULT 'cic';
ALTER TABLE models ADD COLUMN evaluation TEXT NOT NULL DEFAULT '{}';
"""
}
"""What brings the tables of a version to the next one."""

LAGGING = """
CREATE TEMP TABLE lagging (id TEXT PRIMARY KEY, dataset_id TEXT NOT NULL, until REAL NOT NULL)
"""
"""Files that listings do not show yet, because a fault switch wants it so; in memory, for one connection."""
