"""Adapters on the Hugging Face Hub: found by listing, described by range requests, fetched and checked by hash."""
