"""What a user may set about an ingest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ingest.formats.options import Conversion, Options
from ingest.names import Rename

DEFAULT_MEMORY = 1 << 30


@dataclass(frozen=True, slots=True)
class Settings:
    """How adapters are planned and stored.

    Attributes
    ----------
    base_model : str, optional
        The zoo's base; without it that of the largest group of sources that agree.
    aliases : sequence of str
        Other names of the base.
    renames : sequence of str
        ``OLD=NEW``: leading components of layer names to be replaced.
    allow_pickle, ignore_magnitude, convert, unet_config
        See `ingest.formats.Options`.
    readmit : bool
        Whether adapters that were removed from the zoo are taken back.
    retry : bool
        Whether files whose values were refused are read (from the Hub: fetched) again although they are the same.
    follow_links : bool
        Whether links that lead out of a source folder are followed.
    keep_downloads : bool
        Whether files from the Hub stay in its cache; otherwise they go once their rows are committed.
    staging : str, optional
        A folder in which a folder for downloads and conversions is made meanwhile; by default they lie inside the zoo,
        for a zoo in an object store in the folder for temporary files.
    memory : int
        Bytes of data held at a time, over all threads.
    codec : {"", "lz4"}
        How a new zoo's chunks are compressed; an existing zoo keeps its own.
    """

    base_model: str | None = None
    aliases: Sequence[str] = ()
    renames: Sequence[str] = ()
    allow_pickle: bool = False
    ignore_magnitude: bool = False
    convert: frozenset[Conversion] = field(default_factory=frozenset)
    unet_config: str | None = None
    readmit: bool = False
    retry: bool = False
    follow_links: bool = False
    keep_downloads: bool = False
    staging: str | None = None
    memory: int = DEFAULT_MEMORY
    codec: str = ""

    def options(self, renames: Sequence[str]) -> Options:
        """What the formats need to know, with all renames that hold for the zoo.

        Raises
        ------
        EigenzooError
            If a rename is malformed, or `unet_config` is no UNet's configuration.
        """
        if self.unet_config is not None:
            from ingest.formats.unet import read_unet_config

            read_unet_config(self.unet_config)
        rules = tuple(Rename.parse(rename) for rename in renames)
        return Options(rules, self.allow_pickle, self.ignore_magnitude, self.convert, self.unet_config)


DEFAULT = Settings()
