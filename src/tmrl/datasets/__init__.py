"""Recorded data on disk: read without running what they hold, written in formats that others read.

- `open_dataset`: our own folder, a saved memory, the documented `data.pkl`, `.npz`, Minari; as a `Dataset`.
- `DatasetWriter`: writes our own folder, episode by episode.
- `export`: from any of these formats to our own, `.npz` or Minari.
- `read_columns`: the documented `data.pkl`, through an unpickler that admits only arrays and containers.
"""

from typing import TYPE_CHECKING

from tmrl.lazy import lazy_exports

if TYPE_CHECKING:
    from tmrl.datasets.dataset import About as About
    from tmrl.datasets.dataset import Dataset as Dataset
    from tmrl.datasets.dataset import Episode as Episode
    from tmrl.datasets.dataset import EpisodeList as EpisodeList
    from tmrl.datasets.exporting import Report as Report
    from tmrl.datasets.exporting import export as export
    from tmrl.datasets.opening import open_dataset as open_dataset
    from tmrl.datasets.pickle_file import read_columns as read_columns
    from tmrl.datasets.writer import DatasetWriter as DatasetWriter

__all__ = [
    "About",
    "Dataset",
    "DatasetWriter",
    "Episode",
    "EpisodeList",
    "Report",
    "export",
    "open_dataset",
    "read_columns",
]
__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "About": "tmrl.datasets.dataset",
        "Dataset": "tmrl.datasets.dataset",
        "DatasetWriter": "tmrl.datasets.writer",
        "Episode": "tmrl.datasets.dataset",
        "EpisodeList": "tmrl.datasets.dataset",
        "Report": "tmrl.datasets.exporting",
        "export": "tmrl.datasets.exporting",
        "open_dataset": "tmrl.datasets.opening",
        "read_columns": "tmrl.datasets.pickle_file",
    },
)
